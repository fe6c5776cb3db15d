"""A U-Net of plain residual blocks for denoising, with the noise level as an input.

After DRUNet (Zhang et al. 2021, arXiv 2008.13751), with FFDNet's entrance (Zhang et al. 2018, arXiv 1710.04026): the
picture enters at half resolution with its 2x2 neighbors as channels, so that full resolution costs nearly nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops


def build(channels: int = 3, widths: Sequence[int] = (64, 128, 192), blocks: int = 2) -> keras.Model:
    """Return image [N,H,W,channels] and level [N,1,1,1] -> image [N,H,W,channels], not clipped.

    `level` is the root mean square of the degradation over 75/255. Height and width are multiples of
    2 ** len(widths). No normalization: every picture is treated alike, whatever shares its batch.
    """
    image = keras.Input((None, None, channels), name="image")
    level = keras.Input((1, 1, 1), name="level")
    reduced = ops.space_to_depth(image, 2)
    plane = ops.zeros_like(reduced[..., :1]) + level
    x = _convolution(widths[0], "entrance")(ops.concatenate([reduced, plane], axis=-1))

    skips = []
    for depth, width in enumerate(widths):
        if depth:
            skips.append(x)
            x = layers.Conv2D(width, 2, 2, use_bias=False, name=f"down_{depth}")(x)
        for i in range(blocks):
            x = _block(x, width, f"encoder_{depth}_{i}")
    for depth in reversed(range(len(widths))):
        for i in range(blocks):
            x = _block(x, widths[depth], f"decoder_{depth}_{i}")
        if depth:
            x = layers.Conv2D(4 * widths[depth - 1], 1, use_bias=False, name=f"up_{depth}")(x)
            x = ops.depth_to_space(x, 2) + skips.pop()

    last = layers.Conv2D(4 * channels, 3, padding="same", kernel_initializer=_small(0.01), name="exit", dtype="float32")
    residual = ops.depth_to_space(last(x), 2)
    return keras.Model({"image": image, "level": level}, {"image": image + residual}, name="residual_unet")


def _convolution(width: int, name: str, scale: float = 2.0) -> layers.Layer:
    return layers.Conv2D(width, 3, padding="same", kernel_initializer=_small(scale), name=name)


def _small(scale: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(scale, "fan_in", "truncated_normal")


def _block(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    # The second convolution starts small, so that a deep stack without normalization begins as the identity.
    inner = layers.ReLU(name=f"{name}_relu")(_convolution(width, f"{name}_a")(x))
    return x + _convolution(width, f"{name}_b", scale=0.05)(inner)
