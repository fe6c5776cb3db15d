"""FFDNet: plain convolutions at half resolution, with the noise level as an input.

Zhang et al. 2018, arXiv 1710.04026. Its answer depends on the pixels within `2 * depth + 2` of a place only, so that
large pictures cost little more in tiles than whole.

There is no sum of picture and correction in it: all of the picture goes through its layers, and what bfloat16 rounds
off from them is as much as faint noise. `in_bfloat16` makes a network with the same answers that loses little of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training.rounding import round_together

LEAST_MEAN = 0.05
"""The smallest mean of a channel that is divided by, as a share of the root mean square of its layer's means."""
PLACES = 50_000
"""How many places of the samples, about, the weights of a layer are rounded for."""


def build(channels: int = 3, width: int = 96, depth: int = 12) -> keras.Model:
    """Return image [N,H,W,channels] and level [N,1,1,1] -> image [N,H,W,channels], not clipped.

    `level` is the root mean square of the degradation over 75/255. Height and width are even. `depth` counts the
    convolutions. The last is float32: it writes pixels.
    """
    image = keras.Input((None, None, channels), name="image")
    level = keras.Input((1, 1, 1), name="level")
    reduced = ops.space_to_depth(image, 2)
    x = ops.concatenate([reduced, ops.zeros_like(reduced[..., :1]) + level], axis=-1)
    for index in range(depth - 1):
        x = layers.Conv2D(
            width, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=_layer(index)
        )(x)
    x = layers.Conv2D(4 * channels, 3, padding="same", name=_layer(depth - 1), dtype="float32")(x)
    return keras.Model({"image": image, "level": level}, {"image": ops.depth_to_space(x, 2)}, name="ffdnet")


def build_centered(channels: int = 3, width: int = 96, depth: int = 12) -> keras.Model:
    """Return the network of `in_bfloat16`, with inputs and outputs as `build` has them.

    Its channels are -1 where those of `build` are 0, outside of the picture too, and 0 at their mean. First and last
    layer are float32: they read and write pixels.
    """
    image = keras.Input((None, None, channels), name="image")
    level = keras.Input((1, 1, 1), name="level")
    reduced = ops.space_to_depth(image, 2)
    x = ops.concatenate([reduced, ops.zeros_like(reduced[..., :1]) + level], axis=-1)
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name=_layer(0), dtype="float32")(x)
    x = ops.cast(x - 1.0, "bfloat16")
    for index in range(1, depth - 1):
        x = layers.Conv2D(width, 3, name=_layer(index), dtype="mixed_bfloat16")(_pad(x))
        x = ops.maximum(x, -1.0)
    x = ops.cast(x, "float32") + 1.0
    x = layers.Conv2D(4 * channels, 3, padding="same", name=_layer(depth - 1), dtype="float32")(x)
    return keras.Model({"image": image, "level": level}, {"image": ops.depth_to_space(x, 2)}, name="ffdnet_centered")


def in_bfloat16(network: keras.Model, samples: Mapping[str, np.ndarray]) -> keras.Model:
    """Return a network with the answers of `network`, one of `build`, that computes in bfloat16.

    Two things keep its rounding small. Channels are divided by their mean, and 1 is subtracted: a channel varies much
    less than it is large, and what bfloat16 rounds off is a share of the number. In exact numbers that changes no
    answer. And the weights of a layer are rounded together, for what it sees of `samples`, inputs of `network`.
    """
    image, level = (ops.convert_to_tensor(samples[name]) for name in ("image", "level"))
    weights = [_weights(network, index) for index in range(_depth(network))]
    width, last = weights[0][1].size, len(weights) - 1
    centered = build_centered(network.output["image"].shape[-1], width, len(weights))
    reduced = ops.space_to_depth(image, 2)
    exact = ops.concatenate([reduced, ops.zeros_like(reduced[..., :1]) + level], axis=-1)
    x, means = exact, np.ones(exact.shape[-1])
    for index, (kernel, bias) in enumerate(weights[:last]):
        exact = network.get_layer(_layer(index))(exact)
        found = _channel_means(exact)
        kernel = kernel * means[:, None] / found
        if index == 0:
            _assign(centered, index, kernel, bias / found)
            x = ops.cast(centered.get_layer(_layer(index))(x) - 1.0, "bfloat16")
        else:
            padded = _pad(x)
            _assign(centered, index, *_round(kernel, bias / found + kernel.sum(axis=(0, 1, 2)) - 1.0, padded))
            x = ops.maximum(centered.get_layer(_layer(index))(padded), -1.0)
        means = found
    _assign(centered, last, weights[last][0] * means[:, None], weights[last][1])
    return centered


def convert_weights(stored: Mapping[str, np.ndarray], level_unit: float = 75 / 255) -> dict[str, np.ndarray]:
    """Return the weights of the authors' PyTorch network under the names of `build`.

    `stored` has `model/<2 * index>/weight` (3, 3, in, out) and `model/<2 * index>/bias`. PyTorch orders the pixels of a
    2x2 block by channel, then row, then column, where Keras has the channel last; and the authors' level is the
    deviation for a range of 1, where ours is that over `level_unit`.
    """
    names = sorted({int(key.split("/")[1]) for key in stored})
    depth = len(names)
    channels = stored[f"model/{names[-1]}/bias"].shape[0] // 4
    order = np.arange(4 * channels).reshape(channels, 2, 2).transpose(1, 2, 0).reshape(-1)
    converted: dict[str, np.ndarray] = {}
    for index, name in enumerate(names):
        kernel = stored[f"model/{name}/weight"].astype(np.float32)
        bias = stored[f"model/{name}/bias"].astype(np.float32)
        if index == 0:
            kernel = np.concatenate([kernel[:, :, order], kernel[:, :, -1:] * level_unit], axis=2)
        if index == depth - 1:
            kernel, bias = kernel[..., order], bias[order]
        converted |= {f"{_layer(index)}/kernel": kernel, f"{_layer(index)}/bias": bias}
    return converted


def _layer(index: int) -> str:
    return f"convolution_{index}"


def _pad(x: Any) -> Any:
    return ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1.0)


def _depth(network: keras.Model) -> int:
    return sum(isinstance(layer, layers.Conv2D) for layer in network.layers)


def _weights(network: keras.Model, index: int) -> list[np.ndarray]:
    """Return kernel and bias of a layer, float64."""
    return [ops.convert_to_numpy(one).astype(np.float64) for one in network.get_layer(_layer(index)).weights]


def _assign(network: keras.Model, index: int, kernel: np.ndarray, bias: np.ndarray) -> None:
    for variable, value in zip(network.get_layer(_layer(index)).weights, (kernel, bias), strict=True):
        variable.assign(value.astype(np.float32))


def _channel_means(x: Any) -> np.ndarray:
    """Return the means of the channels of `x`, none far below the others: what never answers is not divided by."""
    means = ops.convert_to_numpy(ops.mean(x, axis=(0, 1, 2))).astype(np.float64)
    return np.maximum(means, LEAST_MEAN * np.sqrt(np.mean(np.square(means))))


def _round(kernel: np.ndarray, bias: np.ndarray, padded: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a layer of 3x3 pixels rounded together, for its inputs `padded`."""
    seen = ops.convert_to_numpy(ops.cast(padded, "float32"))
    windows = np.lib.stride_tricks.sliding_window_view(seen, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    step = max(1, round(np.sqrt(np.prod(windows.shape[:3]) / PLACES)))
    places = windows[:, ::step, ::step].reshape(-1, kernel[..., 0].size)
    places = np.concatenate([places, np.ones_like(places[:, :1])], axis=1)  # the bias is the weight of a constant
    rounded = round_together(
        np.concatenate([kernel.reshape(-1, bias.size), bias[None]]), places.T @ places / len(places)
    )
    return rounded[:-1].reshape(kernel.shape), rounded[-1]
