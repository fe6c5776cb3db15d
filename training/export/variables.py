"""Weights by name: `layer/index`, the index in the order of `layer.weights`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.recipe import BadInitialWeights


def layer_variables(network: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yield (`layer/index`, variable) of each layer's weights, layer by layer."""
    for layer in network.layers:
        for index, variable in enumerate(layer.weights):
            yield f"{layer.name}/{index}", variable


def read_variables(folder: Path, part: str) -> dict[str, np.ndarray]:
    """Return the weights of a published model's part as `layer/index` -> float32 array.

    A part that the model does not have gets the first one it has, and of the others what that lacks: bodies are alike,
    and what fits is taken. Raises BadInitialWeights when `folder` holds no model of ours.
    """
    import tensorflow as tf

    try:
        checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    except (tf.errors.OpError, ValueError):
        raise BadInitialWeights(f"{folder} is not the folder of a published model") from None
    keys = [key for key in checkpoint.get_variable_to_shape_map() if key.startswith("weights/")]
    parts = sorted({key.split("/")[1] for key in keys})
    if not parts:
        raise BadInitialWeights(f"{folder} is not the folder of a published model")
    found: dict[str, np.ndarray] = {}
    for chosen in [part] if part in parts else parts:
        for key in keys:
            place = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").split("/")
            if place[1] == chosen:
                found.setdefault("/".join(place[2:]), checkpoint.get_tensor(key).astype(np.float32))
    return found
