"""VGG19 (Simonyan and Zisserman 2015, arXiv 1409.1556); style transfer uses its first layers as a metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

BLOCKS = (("block1", 2, 64), ("block2", 2, 128), ("block3", 4, 256), ("block4", 4, 512), ("block5", 2, 512))
MEAN_BGR = (103.939, 116.779, 123.68)


def build(outputs: Sequence[str], weights: Path) -> keras.Model:
    """Return image [N,H,W,3] in [0, 1] -> {name: activations after ReLU} for `outputs` (`block4_conv1`), frozen.

    `weights` is an `.npz` of `layer/kernel` and `layer/bias`, each an array, or 8 bit as `…/q` and `…/scale_min`.
    """
    image = keras.Input((None, None, 3), name="image")
    x = ops.flip(image, axis=-1) * 255.0 - np.array(MEAN_BGR, np.float32)
    found = {}
    for block, depth, width in BLOCKS:
        for i in range(1, depth + 1):
            name = f"{block}_conv{i}"
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name, trainable=False)(x)
            if name in outputs:
                found[name] = x
            if len(found) == len(outputs):
                network = keras.Model(image, found, name="vgg19")
                _load(network, weights)
                return network
        x = layers.MaxPooling2D(name=f"{block}_pool")(x)
    raise ValueError(f"VGG19 up to block5_conv2 has no layers {sorted(set(outputs) - set(found))}")


def _load(network: keras.Model, weights: Path) -> None:
    with np.load(weights) as stored:
        for layer in network.layers:
            if layer.weights:
                layer.set_weights([_array(stored, f"{layer.name}/{kind}") for kind in ("kernel", "bias")])


def _array(stored: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    if key in stored:
        return np.asarray(stored[key], np.float32)
    scale, least = stored[f"{key}/scale_min"]
    return (stored[f"{key}/q"].astype(np.float64) * scale + least).astype(np.float32)
