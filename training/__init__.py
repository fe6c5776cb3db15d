"""The workshop: everything that makes the models on the shelf. Keras 3 on any backend; only `export` needs TensorFlow."""
