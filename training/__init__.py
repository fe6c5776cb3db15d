"""Trains and publishes every model that the service runs. Keras 3 on any backend; only `export` needs TensorFlow."""
