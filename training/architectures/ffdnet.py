"""FFDNet: plain convolutions at half resolution, with the noise level as an input.

Zhang et al. 2018, arXiv 1710.04026. Its answer depends on the pixels within `2 * depth + 2` of a place only, so that
large pictures cost little more in tiles than whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops


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
