"""The small general Real-ESRGAN: a plain stack of convolutions that adds to the picture enlarged by repetition.

Wang et al. 2021, arXiv 2107.10833; the stack is that of `realesr-general-x4v3`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

SCALE = 4
REACH = 34
"""How many pixels around a place its answer depends on: one for each convolution."""


def build(width: int = 64, depth: int = 32) -> keras.Model:
    """Return image [N,H,W,3] -> image [N,4*H,4*W,3], not clipped. `depth` counts the convolutions before the last."""
    image = keras.Input((None, None, 3), name="image")
    blocks = _blocks(image, width, depth)
    return keras.Model({"image": image}, {"image": ops.depth_to_space(blocks, SCALE)}, name="srvgg")


def _blocks(image: Any, width: int, depth: int) -> Any:
    """Return [N,H,W,3*SCALE**2]: the 4x4 pixels that each pixel of `image` becomes, row by row."""
    x = image
    for number in range(depth + 1):
        x = layers.Conv2D(width, 3, padding="same", name=f"convolution_{number}")(x)
        x = layers.PReLU(shared_axes=(1, 2), name=f"slope_{number}")(x)
    x = layers.Conv2D(3 * SCALE**2, 3, padding="same", name=f"convolution_{depth + 1}", dtype="float32")(x)
    return x + ops.concatenate([image] * SCALE**2, axis=-1)


def reduce_result(network: keras.Model, scale: int) -> keras.Model:
    """Return `network` with its result reduced to `scale` times the picture's size by means of areas."""
    blocks = ops.space_to_depth(network.output["image"], SCALE)
    weights = np.einsum("yi,xj,cd->ijcyxd", *[_area_weights(scale)] * 2, np.eye(3))
    kernel = weights.reshape(1, 1, 3 * SCALE**2, 3 * scale**2).astype(np.float32)
    reduced = ops.conv(blocks, ops.convert_to_tensor(kernel))
    return keras.Model(network.input, {"image": ops.depth_to_space(reduced, scale)}, name=network.name)


def _area_weights(scale: int) -> np.ndarray:
    """Return (scale, SCALE): what each of `scale` pixels covers of SCALE pixels, in shares of itself."""
    edges, old = np.arange(scale + 1) * SCALE / scale, np.arange(SCALE)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.maximum(covered, 0.0) * scale / SCALE


def convert_weights(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of the authors' network, whose pixels PyTorch orders by channel, under the names of `build`.

    `stored` has `conv_0/kernel` (3, 3, in, out), `conv_0/bias`, `prelu_0/alpha` (channels,) and so on.
    """
    last = max(int(key.split("/")[0].removeprefix("conv_")) for key in stored if key.startswith("conv_"))
    order = np.arange(3 * SCALE**2).reshape(3, SCALE, SCALE).transpose(1, 2, 0).reshape(-1)
    converted = {}
    for key, value in stored.items():
        array = value.astype(np.float32)
        if key.startswith(f"conv_{last}/"):
            array = array[..., order]
        name = key.replace("conv", "convolution").replace("prelu", "slope")
        converted[name] = array.reshape(1, 1, -1) if key.endswith("alpha") else array
    return converted
