"""Networks as one SavedModel: a signature a part, weights in float16, arithmetic in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Shelved(tf.Module):
    """What is saved: `weights[part][layer][index]`, float16 or float32, and a function a part.

    The networks themselves are not saved: each function runs one of them on weights that it casts to float32, so the
    graph holds plain operations and nothing of Keras.
    """

    def __init__(self, networks: Mapping[str, keras.Model], halves: Mapping[str, bool]) -> None:
        super().__init__()
        self.weights: dict[str, Any] = {}
        self.functions: dict[str, Any] = {}
        for part, network in networks.items():
            kind = tf.float16 if halves[part] else tf.float32
            self.weights[part] = {
                layer.name: {str(i): tf.Variable(_value(v), dtype=kind) for i, v in enumerate(layer.weights)}
                for layer in network.layers
                if layer.weights
            }
            self.functions[part] = self._function(part, network)

    def _function(self, part: str, network: keras.Model) -> Any:
        stored = {
            v.path: self.weights[part][layer.name][str(i)]
            for layer in network.layers
            for i, v in enumerate(layer.weights)
        }
        names = {name: tuple(tensor.shape) for name, tensor in network.input.items()}

        def run(**inputs: Any) -> Any:
            trainable = [tf.cast(stored[v.path], tf.float32) for v in network.trainable_variables]
            others = [
                tf.cast(stored[v.path], tf.float32) if v.path in stored else v.value
                for v in network.non_trainable_variables
            ]
            outputs, _ = network.stateless_call(trainable, others, inputs, training=False)
            return outputs

        specs = {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in names.items()}
        return tf.function(run, autograph=False).get_concrete_function(**specs)


def half_costs(network: keras.Model, measure: Any) -> float:
    """Return how many dB the first figure of `measure(network)` loses with weights rounded to float16."""
    before = measure(network)
    exact = [_value(v) for v in network.variables]
    for variable, value in zip(network.variables, exact, strict=True):
        if value.dtype == np.float32:
            variable.assign(value.astype(np.float16).astype(np.float32))
    after = measure(network)
    for variable, value in zip(network.variables, exact, strict=True):
        variable.assign(value)
    return abs(next(iter(before.values())) - next(iter(after.values())))


def save(networks: Mapping[str, keras.Model], halves: Mapping[str, bool], folder: Path) -> dict[str, Any]:
    """Write the SavedModel and return its functions by part. `halves` says which parts are stored in float16."""
    module = Shelved(networks, halves)
    tf.saved_model.save(module, str(folder), signatures=module.functions)
    # TensorFlow writes a fingerprint that differs from run to run and that nothing reads.
    (folder / "fingerprint.pb").unlink(missing_ok=True)
    return module.functions


def operations(function: Any) -> set[str]:
    """Return the kinds of operation in the graph of a concrete function, the functions that it calls included."""
    graph = function.graph.as_graph_def()
    found = {node.op for node in graph.node}
    for called in graph.library.function:
        found |= {node.op for node in called.node_def}
    return found - {called.signature.name for called in graph.library.function}


def cost(network: keras.Model, size: int) -> tuple[int, float]:
    """Return (floating point operations a pixel, mebibytes a megapixel) of a `size` × `size` input.

    The memory is an estimate: the three largest tensors of the graph, which is what is alive around the widest layer.
    """
    from tensorflow.python.profiler.model_analyzer import profile
    from tensorflow.python.profiler.option_builder import ProfileOptionBuilder

    def run(**inputs: Any) -> Any:
        return network(inputs, training=False)

    specs = {
        name: tf.TensorSpec([1, *(size if n is None else n for n in tensor.shape[1:])], tf.float32, name=name)
        for name, tensor in network.input.items()
    }
    graph = tf.function(run, autograph=False).get_concrete_function(**specs).graph
    options = ProfileOptionBuilder(ProfileOptionBuilder.float_operation()).with_empty_output().build()
    operations = profile(graph, options=options).total_float_ops
    tensors = [tensor for operation in graph.get_operations() for tensor in operation.outputs]
    sizes = sorted(tensor.shape.num_elements() or 0 for tensor in tensors if tensor.dtype == tf.float32)
    return -(-operations // size**2), round(4 * sum(sizes[-3:]) / size**2 * 1e6 / 2**20, 1)


def _value(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
