"""A super-resolution network of plain residual blocks at the small picture's resolution.

After EDSR (Lim et al. 2017, arXiv 1707.02921), with the bicubic enlargement replaced by nearest enlargement inside
the last reshaping: the network predicts what is missing from each pixel's own copy.
"""

from __future__ import annotations

import keras
from keras import layers, ops


def build(scale: int, channels: int = 3, width: int = 64, blocks: int = 10) -> keras.Model:
    """Return image [N,H,W,channels] -> image [N,scale*H,scale*W,channels], not clipped."""
    image = keras.Input((None, None, channels), name="image")
    first = x = _convolution(width, "entrance", 2.0)(image)
    for i in range(blocks):
        # The second convolution starts small, so that a deep stack without normalization begins as the identity.
        inner = layers.ReLU(name=f"block_{i}_relu")(_convolution(width, f"block_{i}_a", 2.0)(x))
        x = x + _convolution(width, f"block_{i}_b", 0.05)(inner)
    x = _convolution(width, "body", 1.0)(x) + first
    # ICNR-like: nearly zero at first, so that the start is the enlarged picture and shows no checkerboard.
    exit_start = keras.initializers.VarianceScaling(0.01, "fan_in", "truncated_normal")
    last = layers.Conv2D(
        channels * scale**2, 3, padding="same", kernel_initializer=exit_start, name=f"exit_{scale}", dtype="float32"
    )
    copies = ops.concatenate([image] * scale**2, axis=-1)
    enlarged = ops.depth_to_space(last(x) + copies, scale)
    return keras.Model({"image": image}, {"image": enlarged}, name="residual_upscaler")


def _convolution(width: int, name: str, scale: float) -> layers.Layer:
    start = keras.initializers.VarianceScaling(scale, "fan_in", "truncated_normal")
    return layers.Conv2D(width, 3, padding="same", kernel_initializer=start, name=name)
