"""RLFN, the residual local feature network: plain convolutions at the small size, and a gate after each block.

Kong et al. 2022, arXiv 2205.07514. Two things differ from the authors' network. Its gates see a grid of the whole
picture, stretched to its size, so that a tile would get other gates than the picture: here the grid has one place in
4x4 pixels, wherever it is. And there are two exits: for pictures that were reduced with a filter, and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training.bilinear import enlarge

MULTIPLE = 4
"""What height and width of the picture are multiples of: one place of a gate's grid."""
EXITS = ("image", "unfiltered")
SLOPE = 0.05
_RANGE = 255.0  # the authors' network computes in values of a file


def build(scale: int, bicubic: np.ndarray, width: int = 52, blocks: int = 6, gate: int = 16) -> keras.Model:
    """Return image [N,H,W,3] -> image and unfiltered [N,scale*H,scale*W,3], not clipped, one of each exit.

    `bicubic` is the kernel of bicubic enlargement, float32 (5, 5, 3, 3*scale**2).
    """
    image = keras.Input((None, None, 3), name="image")
    picture = image * _RANGE
    first = x = layers.Conv2D(width, 3, padding="same", name="entrance")(picture)
    for number in range(blocks):
        inner = x
        for letter in "abc":
            inner = layers.Conv2D(width, 3, padding="same", name=f"block_{number}_{letter}")(inner)
            inner = ops.leaky_relu(inner, SLOPE)
        x = layers.Conv2D(width, 1, name=f"block_{number}_mix")(inner + x)
        x = x * _gate(x, gate, f"gate_{number}")
    x = layers.Conv2D(width, 3, padding="same", name="body")(x) + first
    # An exit sees the picture, too, so that it can write what is to be added to each pixel's copies: that is small, and
    # exact enough in bfloat16. The picture of 8 bits is exact there.
    x = ops.concatenate([x, ops.cast(picture, x.dtype)], axis=-1)
    copies = ops.concatenate([picture] * scale**2, axis=-1)
    smooth = ops.conv(ops.pad(picture, [[0, 0], [2, 2], [2, 2], [0, 0]], mode="symmetric"), _without_copies(bicubic))
    found = {}
    for name, base, start in (("image", 0.0, "glorot_uniform"), ("unfiltered", smooth, "zeros")):
        added = layers.Conv2D(
            3 * scale**2, 3, padding="same", kernel_initializer=start, name=f"exit_{name}", dtype="float32"
        )(x)
        found[name] = ops.depth_to_space(added + base + copies, scale) / _RANGE
    return keras.Model({"image": image}, found, name="rlfn")


def _without_copies(kernel: np.ndarray) -> Any:
    """Return a kernel (side, side, 3, 3*scale**2) that enlarges without the copies of each pixel, added afterwards."""
    side, _, channels, blocks = kernel.shape
    less = kernel.astype(np.float32)
    less[side // 2, side // 2] -= np.tile(np.eye(channels, dtype=np.float32), blocks // channels)
    return ops.convert_to_tensor(less)


def _gate(x: Any, width: int, name: str) -> Any:
    """Return what `x` is multiplied by, in (0, 1): from each place itself and from its surroundings (ESA)."""
    entrance = layers.Conv2D(width, 1, name=f"{name}_entrance")(x)
    coarse = layers.Conv2D(width, 3, strides=2, padding="same", name=f"{name}_reduce")(entrance)
    coarse = ops.max_pool(coarse, 7, 2, padding="same")
    coarse = layers.Conv2D(width, 3, padding="same", name=f"{name}_coarse")(coarse)
    wide = enlarge(coarse, MULTIPLE, f"{name}_enlarge")
    own = layers.Conv2D(width, 1, name=f"{name}_own")(entrance)
    return ops.sigmoid(layers.Conv2D(x.shape[-1], 1, name=f"{name}_exit")(wide + own))


def solve_exit(
    network: keras.Model,
    name: str,
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    share: float = 1.0,
    edge: int = 4,
) -> None:
    """Set the weights of exit `name` to those with the least squared error, the rest of the network as it is, or go a
    `share` of the way there.

    Bodies that are alike, of another scale or with other gates, need other exits, and no steps to find them.

    `pairs` are (small, large), float32 (N,h,w,3) and (N,scale*h,scale*w,3) in [0, 1]; `edge` small pixels at each side
    and every second row and column are left out.
    """
    exit_ = network.get_layer(f"exit_{name}")
    features = keras.Model(network.input, {"features": exit_.input})
    squares: Any = 0.0
    products: Any = 0.0
    inner = slice(edge, -edge, 2)
    for small, large in pairs:
        seen = ops.cast(features({"image": small})["features"], "float32")
        windows = ops.convert_to_numpy(_windows(seen))[:, inner, inner]
        scale = large.shape[1] // small.shape[1]
        missing = large - ops.convert_to_numpy(network({"image": small})[name])
        wanted = ops.convert_to_numpy(ops.space_to_depth(missing * _RANGE, scale))
        found = windows.reshape(-1, windows.shape[-1]).astype(np.float64)
        found = np.concatenate([found, np.ones((len(found), 1))], axis=1)
        squares = squares + found.T @ found
        products = products + found.T @ wanted[:, inner, inner].reshape(len(found), -1)
    # What the pairs do not tell stays as it is.
    steady = 1e-3 * np.diag(np.diag(squares) + 1e-6)
    change = share * np.linalg.solve(squares + steady, products)
    kernel, bias = exit_.get_weights()
    exit_.set_weights([kernel + change[:-1].reshape(kernel.shape), bias + change[-1]])


def _windows(x: Any) -> Any:
    """Return [N,H,W,9*C]: the 3x3 places around each, in the order of a kernel's weights."""
    height, width = x.shape[1:3]
    padded = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    shifted = [padded[:, row : row + height, left : left + width] for row in range(3) for left in range(3)]
    return ops.concatenate(shifted, axis=-1)


_BLOCK = {"c1_r": "block_{}_a", "c2_r": "block_{}_b", "c3_r": "block_{}_c", "c5": "block_{}_mix"}
_GATE = {"conv1": "entrance", "conv_f": "own", "conv2": "reduce", "conv3": "coarse", "conv4": "exit"}


def convert_weights(stored: Mapping[str, np.ndarray], scale: int) -> dict[str, np.ndarray]:
    """Return the weights of the authors' PyTorch network under the names of `build(scale)`.

    `stored` has `conv_1/weight` (3, 3, in, out), `block_1/esa/conv1/bias` and so on. The exit is theirs, whose pixels
    PyTorch orders by channel, then row, then column; from a network of another scale it is resampled. The other one,
    for pictures that were not filtered, stays as it is: it adds to bicubic enlargement, at first nothing.
    """
    converted: dict[str, np.ndarray] = {}
    for key, value in stored.items():
        layer, _, kind = key.rpartition("/")
        array, kind = value.astype(np.float32), kind.replace("weight", "kernel")
        if layer.startswith("upsampler"):
            array = resample_exit(array, scale)
            if array.ndim > 1:
                nothing = np.zeros((*array.shape[:2], 3, array.shape[-1]), np.float32)
                array = np.concatenate([array, ops.convert_to_numpy(_without_copies(nothing))], axis=2)
        converted |= {f"{name}/{kind}": array for name in _names(layer)}
    return converted


def _names(layer: str) -> list[str]:
    if layer.startswith("upsampler"):
        return ["exit_image"]
    if not layer.startswith("block"):
        return [{"conv_1": "entrance", "conv_2": "body"}[layer]]
    block, *rest = layer.split("/")
    number = int(block.removeprefix("block_")) - 1
    return [_BLOCK[rest[0]].format(number) if len(rest) == 1 else f"gate_{number}_{_GATE[rest[1]]}"]


def resample_exit(array: np.ndarray, scale: int) -> np.ndarray:
    """Return the last axis of an exit's weights, in PyTorch's order, for `scale`, in Keras's order.

    What an exit writes for a pixel is a block of as many pixels as its scale is; between them it is interpolated
    linearly.
    """
    old = round((array.shape[-1] / 3) ** 0.5)
    blocks = array.reshape(*array.shape[:-1], 3, old, old)
    centers = ((np.arange(scale) + 0.5) / scale * old - 0.5).clip(0, old - 1)
    weights = np.maximum(0.0, 1.0 - np.abs(centers[:, None] - np.arange(old)))
    found = np.einsum("...cij,yi,xj->...yxc", blocks, weights, weights)
    return found.reshape(*array.shape[:-1], 3 * scale**2).astype(np.float32)
