"""The workshop: makes every model on the shelf. Keras 3 on any backend; only `export` needs TensorFlow."""
