"""Weights by name: what a file holds, and what a network takes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers


def take(network: keras.Model, stored: Mapping[str, np.ndarray]) -> int:
    """Copy into `network` what `stored` has under the same name and shape; return how many variables that were.

    Names are `layer/index`, or `layer/variable` as Keras calls them (`block_1_expand/kernel`).
    """
    taken = 0
    for layer in network.layers:
        for index, variable in enumerate(layer.weights):
            value = stored.get(f"{layer.name}/{index}", stored.get(f"{layer.name}/{variable.name}"))
            if value is not None and value.shape == tuple(variable.shape):
                variable.assign(value.astype("float32"))
                taken += 1
    return taken + _take_biases(network, stored)


def _take_biases(network: keras.Model, stored: Mapping[str, np.ndarray]) -> int:
    """Set each batch normalization that `stored` lacks, because it was folded into the convolution before it
    (`training.export.folding`), to add the bias of that convolution; return how many those were."""
    taken = 0
    for convolution, norm in normalized_convolutions(network):
        bias = stored.get(f"{convolution.name}/1", stored.get(f"{convolution.name}/bias"))
        if bias is None or f"{norm.name}/0" in stored or bias.shape != tuple(norm.moving_mean.shape):
            continue
        values = {
            "gamma": np.ones_like(bias),
            "beta": bias,
            "moving_mean": np.zeros_like(bias),
            "moving_variance": np.full_like(bias, 1 - norm.epsilon),
        }
        for variable in norm.weights:
            variable.assign(values[variable.name])
        taken += 1
    return taken


def normalized_convolutions(network: keras.Model) -> list[tuple[layers.Layer, layers.Layer]]:
    """Return each convolution without bias and activation whose only consumer is a batch normalization, with that."""
    found = []
    for norm in network.layers:
        if not isinstance(norm, layers.BatchNormalization) or len(norm._inbound_nodes) != 1:
            continue
        before = norm._inbound_nodes[0].input_tensors[0]._keras_history.operation
        plain = isinstance(before, (layers.Conv2D, layers.DepthwiseConv2D)) and not before.use_bias
        if plain and before.activation is keras.activations.linear and len(before._outbound_nodes) == 1:
            found.append((before, norm))
    return found


def read_weights(source: Path) -> dict[str, np.ndarray]:
    """Return the variables of a flat network's `.weights.h5` as `layer/index` -> array."""
    import h5py

    found: dict[str, np.ndarray] = {}
    with h5py.File(source) as file:

        def visit(path: str, entry: Any) -> None:
            if isinstance(entry, h5py.Dataset):
                # Keras files a layer under its class; its own name is an attribute of the group.
                found[f"{entry.parent.attrs['name']}/{path.rpartition('/')[2]}"] = np.asarray(entry)

        file.visititems(visit)
    return found
