"""From training results to a published model. The only part of training that needs TensorFlow and pydantic."""
