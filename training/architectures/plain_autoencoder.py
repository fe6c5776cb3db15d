"""The encoder-decoder of the article on segmentation. It has no skip connections, so its output is blurred."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build(x: keras.KerasTensor, *, widths: Sequence[int] = (32, 64, 128)) -> keras.KerasTensor:
    """Return features [N,H,W,widths[0]] of `x` [N,H,W,C]; height and width are multiples of 2 ** len(widths).

    A 3x3 convolution and a 2x2 max pooling a level on the way down, a 3x3 convolution and nearest up-sampling on the
    way up, ReLU throughout.
    """
    for depth, width in enumerate(widths):
        x = _convolution(width, f"down_{depth}")(x)
        x = layers.MaxPooling2D(name=f"pool_{depth}")(x)
    x = _convolution(2 * widths[-1], "code")(x)
    for depth, width in reversed(list(enumerate(widths))):
        x = _convolution(width, f"up_{depth}")(x)
        x = layers.UpSampling2D(2, name=f"enlarge_{depth}")(x)
    return _convolution(widths[0], "last")(x)


def _convolution(width: int, name: str) -> layers.Layer:
    return layers.Conv2D(width, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name)
