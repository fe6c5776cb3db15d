"""Weights by name: what a file holds, and what a network takes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np


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
    return taken


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
