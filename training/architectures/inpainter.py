"""A network that fills holes: a smooth fill first, then what a U-Net of few, wide convolutions adds to it.

The fill is push-pull (Gortler et al. 1996, The Lumigraph): colors are averaged into coarser and coarser pictures, each
pixel by how much of it is known, and come back where nothing finer is. It is exact where the picture is known, so that
the network learns the difference only.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

LEVELS = 6
"""Halvings of the fill, so that holes of 64 pixels are closed by what is around them."""


def build(width: int = 48, blocks: int = 6) -> keras.Model:
    """Return {image [N,H,W,3], mask [N,H,W,1]} -> image [N,H,W,3]; height and width are multiples of 64.

    `mask` is 1 where the picture is missing, 0 elsewhere; known pixels come back as they are. Not clipped.
    """
    image, mask = keras.Input((None, None, 3), name="image"), keras.Input((None, None, 1), name="mask")
    fill = PushPull(name="fill")(image, mask)
    x = ops.space_to_depth(ops.concatenate([fill - 0.5, mask], axis=-1), 2)
    near = x = _convolution(width, "entrance")(x)
    x = _residual(x, "near")
    middle = x = _convolution(2 * width, "down_4", strides=2)(x)
    x = _residual(x, "middle")
    x = _convolution(3 * width, "down_8", strides=2)(x)
    for i in range(blocks):
        # What fills a hole stands beside it: the further apart, the fewer details matter.
        x = _residual(x, f"far_{i}", dilation=(1, 2, 4)[i % 3])
    x = ops.depth_to_space(_convolution(4 * 2 * width, "up_4", size=1)(x), 2)
    x = _residual(x + middle, "back_4")
    x = ops.depth_to_space(_convolution(4 * width, "up_2", size=1)(x), 2)
    x = _residual(x + near, "back_2")
    last = layers.Conv2D(12, 3, padding="same", kernel_initializer=_small(0.01), name="exit", dtype="float32")
    added = ops.depth_to_space(last(x), 2)
    return keras.Model({"image": image, "mask": mask}, {"image": fill + mask * added}, name="inpainter")


class PushPull(layers.Layer):
    """A layer of its own, because the sizes of its steps are known only when it is called."""

    def __init__(self, levels: int = LEVELS, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.levels = levels

    def call(self, image: Any, mask: Any) -> Any:
        """Return `image` [N,H,W,C] with the missing pixels of `mask` [N,H,W,1] filled from coarser levels, float32."""
        return push_pull(image, mask, self.levels)

    def compute_output_spec(self, image: Any, mask: Any) -> Any:
        """Return the spec of the filled picture: the shape of `image`, float32."""
        return keras.KerasTensor(image.shape, "float32")


def push_pull(image: Any, mask: Any, levels: int = LEVELS) -> Any:
    """Return `image` [N,H,W,C] where `mask` [N,H,W,1] is 0, and a smooth fill where it is 1."""
    known = 1.0 - mask
    colors = image * known
    finer = []
    for _ in range(levels):
        finer.append((colors, known))
        colors, known = (ops.average_pool(x, 2, 2, padding="same") for x in (colors, known))
        # Premultiplied: a pixel of which half is known counts as whole, which is what closes holes.
        whole = ops.minimum(known * 4.0, 1.0)
        colors, known = colors / ops.maximum(known, 1e-6) * whole, whole
    fill = colors / ops.maximum(known, 1e-6)
    # What no level knows has the mean of what there is.
    mean = ops.mean(colors, axis=(1, 2), keepdims=True) / ops.maximum(ops.mean(known, axis=(1, 2), keepdims=True), 1e-6)
    fill = known * fill + (1.0 - known) * mean
    for colors, known in reversed(finer):
        height, width = ops.shape(colors)[1:3]
        fill = colors + (1.0 - known) * _enlarged(fill)[:, :height, :width]
    return fill


def _enlarged(x: Any) -> Any:
    """Return `x` twice as large: copies, smoothed by the mean of 3x3."""
    x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
    return ops.average_pool(x, 3, 1, padding="same")


def _residual(x: keras.KerasTensor, name: str, dilation: int = 1) -> keras.KerasTensor:
    width = x.shape[-1]
    inner = layers.ReLU(name=f"{name}_relu")(_convolution(width, f"{name}_a", dilation=dilation)(x))
    return x + _convolution(width, f"{name}_b", scale=0.05)(inner)


def _convolution(
    width: int, name: str, *, size: int = 3, strides: int = 1, dilation: int = 1, scale: float = 1.0
) -> layers.Layer:
    return layers.Conv2D(
        width, size, strides, padding="same", dilation_rate=dilation, kernel_initializer=_small(scale), name=name
    )


def _small(scale: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(scale, "fan_in", "truncated_normal")
