"""From training results to a published model. The only part of the workshop that needs TensorFlow and pydantic."""
