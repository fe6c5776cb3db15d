"""From trained weights to a model on the shelf: the only part of the workshop that needs TensorFlow."""
