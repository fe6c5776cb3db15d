"""A network that paints a picture in the style of another, which it encodes in one pass.

A transformer network (Johnson et al. 2016, arXiv 1603.08155) with adaptive instance normalization (Huang and Belongie
2017, arXiv 1703.06868) at every depth, whose scales and offsets come from a style vector (Ghiasi et al. 2017, arXiv
1705.06830); its style encoder is small and of its own. It enlarges by copies and convolves: no checkerboards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

VECTOR = 128
"""Numbers that say a style."""
WIDTH, NEAR, FULL = 112, 48, 24
"""Channels at a quarter, at half and at the whole of the picture's size."""
BLOCKS = 5
EPSILON = 1e-5


class Moments(layers.Layer):
    """Mean of each channel over the picture, and the logarithm of its deviation: [N,H,W,C] -> [N,2,C]."""

    def call(self, x: Any) -> Any:
        """Return mean and logarithm of the deviation of each channel of `x` [N,H,W,C], as [N,2,C] float32."""
        mean, variance = ops.moments(ops.cast(x, "float32"), axes=(1, 2))
        return ops.stack([mean, ops.log(variance + EPSILON) / 2], axis=1)


class Restyle(layers.Layer):
    """Channels with `moments` [N,2,C] become such with deviation 1 + `style`[:, 0] and mean `style`[:, 1]."""

    def call(self, x: Any, moments: Any, style: Any) -> Any:
        """Return `x` [N,H,W,C], normalized with `moments` and scaled and shifted by `style`, both [N,2,C]."""
        moments, style = ops.cast(moments, x.dtype)[:, :, None, None], ops.cast(style, x.dtype)[:, :, None, None]
        return (x - moments[:, 0]) * ops.exp(-moments[:, 1]) * (1 + style[:, 0]) + style[:, 1]

    def compute_output_spec(self, x: Any, moments: Any, style: Any) -> Any:
        """Return the spec of the result: shape and dtype of `x`."""
        return keras.KerasTensor(x.shape, x.dtype)


class _Painter:
    """The layers by name, so that several networks can share them; `known` are those that there are already."""

    def __init__(self, known: Mapping[str, layers.Layer] | None = None) -> None:
        self.layers = dict(known or {})

    def layer(self, name: str, make: Callable[..., layers.Layer], *arguments: Any, **options: Any) -> layers.Layer:
        if name not in self.layers:
            self.layers[name] = make(*arguments, name=name, **options)
        return self.layers[name]

    def convolution(self, x: Any, width: int, name: str, size: int = 3, strides: int = 1) -> Any:
        """Convolve a reflected surrounding, which leaves no frame around the painting."""
        around = size // 2
        x = ops.pad(x, [[0, 0], [around, around], [around, around], [0, 0]], mode="reflect")
        return self.layer(name, layers.Conv2D, width, size, strides)(x)

    def encode(self, style: Any) -> Any:
        """Return the style vector [N,VECTOR] of a picture [N,H,W,3]."""
        x, seen = style * 2.0 - 1.0, []
        for name, width in (("style_2", 32), ("style_4", 64), ("style_8", 128), ("style_16", 128)):
            x = ops.leaky_relu(self.convolution(x, width, name, strides=2), 0.2)
            mean, variance = ops.moments(ops.cast(x, "float32"), axes=(1, 2))
            seen += [mean, ops.sqrt(variance + EPSILON)]
        x = ops.leaky_relu(self.layer("style_mixed", layers.Dense, 256)(ops.concatenate(seen, axis=-1)), 0.2)
        return self.layer("vector", layers.Dense, VECTOR, dtype="float32")(x)

    def paint(self, image: Any, vector: Any, moments: Any = None) -> tuple[Any, Any]:
        """Return the painting and the moments [N,2,channels] of all that was normalized: given, or its own."""
        widths = [NEAR, *[WIDTH] * (1 + 2 * BLOCKS), NEAR, FULL]
        # Published weights are stored under the names of layers: this one keeps its first name.
        styles = layers.Reshape((2, sum(widths)))(self.layer("manners", layers.Dense, 2 * sum(widths))(vector))
        found: list[Any] = []

        def restyled(x: Any, name: str) -> Any:
            begin = sum(widths[: len(found)])
            part = slice(begin, begin + widths[len(found)])
            if moments is None:
                found.append(self.layer(f"{name}_moments", Moments, dtype="float32")(x))
            else:
                found.append(moments[:, :, part])
            return self.layer(f"{name}_restyle", Restyle)(x, found[-1], styles[:, :, part])

        def step(x: Any, width: int, name: str, **options: int) -> Any:
            return ops.relu(restyled(self.convolution(x, width, name, **options), name))

        x = step(ops.space_to_depth(image * 2.0 - 1.0, 2), NEAR, "down_2", size=5)
        x = step(x, WIDTH, "down_4", strides=2)
        for i in range(BLOCKS):
            inner = step(x, WIDTH, f"block_{i}_a")
            x = x + restyled(self.convolution(inner, WIDTH, f"block_{i}_b"), f"block_{i}_b")
        x = step(_twice(x), NEAR, "up_2")
        x = step(_twice(x), FULL, "up_1")
        x = self.layer("exit", layers.Conv2D, 3, 5, padding="same", dtype="float32")(x)
        return ops.sigmoid(x), ops.concatenate(found, axis=-1)


def _twice(x: Any) -> Any:
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


def build() -> keras.Model:
    """Return {image [N,H,W,3], style [N,h,w,3]} -> image [N,H,W,3]; height and width are multiples of 4."""
    image, style = keras.Input((None, None, 3), name="image"), keras.Input((None, None, 3), name="style")
    painter = _Painter()
    painted, _ = painter.paint(image, painter.encode(style))
    return keras.Model({"image": image, "style": style}, {"image": painted}, name="style_painter")


def build_for_presets(count: int) -> keras.Model:
    """Return {image [N,H,W,3], index [N,1]} -> image [N,H,W,3]: painted in one of `count` styles, by its number.

    Each style has a vector that is learned, in the place of the encoder (conditional instance normalization, Dumoulin
    et al. 2017, arXiv 1610.07629).
    """
    image, index = keras.Input((None, None, 3), name="image"), keras.Input((1,), name="index")
    vector = _look_up(layers.Embedding(count, VECTOR, name="presets", dtype="float32"), index)
    painted, _ = _Painter().paint(image, vector)
    return keras.Model({"image": image, "index": index}, {"image": painted}, name="style_painter")


def split(network: keras.Model) -> dict[str, keras.Model]:
    """Return what a large picture needs of `network`, as networks that share its layers.

    * `paint`: {image [N,H,W,3], vector [N,VECTOR], moments [N,2,channels]} -> image: a tile, in one tone with others;
    * `statistics`: {image, vector} -> moments of all that is normalized: of the whole picture, reduced;
    * `encode`: style [N,h,w,3] -> vector, of a network that encodes styles;
    * `preset`: index [N,1] -> vector, of a network for presets.
    """
    painter = _Painter({layer.name: layer for layer in network.layers})
    image, vector = keras.Input((None, None, 3), name="image"), keras.Input((VECTOR,), name="vector")
    _, measured = painter.paint(image, vector)
    moments = keras.Input(measured.shape[1:], name="moments")
    painted, _ = painter.paint(image, vector, moments)
    found = {
        "paint": keras.Model({"image": image, "vector": vector, "moments": moments}, {"image": painted}, name="paint"),
        "statistics": keras.Model({"image": image, "vector": vector}, {"moments": measured}, name="statistics"),
    }
    if "presets" in painter.layers:
        return found | {"preset": _preset(painter.layers["presets"])}
    style = keras.Input((None, None, 3), name="style")
    return found | {"encode": keras.Model({"style": style}, {"vector": painter.encode(style)}, name="encode")}


def presets(vectors: np.ndarray) -> keras.Model:
    """Return index [N,1] -> vector [N,VECTOR]: one of `vectors` [presets,VECTOR], by its number."""
    table = layers.Embedding(*vectors.shape, name="presets")
    network = _preset(table)
    table.set_weights([vectors])
    return network


def _preset(table: layers.Layer) -> keras.Model:
    index = keras.Input((1,), name="index")
    return keras.Model({"index": index}, {"vector": _look_up(table, index)}, name="preset")


def _look_up(table: layers.Layer, index: Any) -> Any:
    return layers.Reshape((VECTOR,))(table(index))
