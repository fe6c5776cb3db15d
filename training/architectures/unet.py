"""The U-Net of the article on U-Net and autoencoders, for masks and for pictures.

After Ronneberger et al. 2015 (arXiv 1505.04597): two 3x3 convolutions a level, 2x2 max pooling on the way down,
transposed convolutions on the way up, and at each level what went down joined to what comes up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
from keras import layers

DEPTH = 4


def build(
    x: keras.KerasTensor, *, filters: int = 16, dropout: float = 0.0, batch_norm: bool = False
) -> keras.KerasTensor:
    """Return features [N,H,W,filters] of `x` [N,H,W,C]; height and width are multiples of 16.

    `dropout` is the share dropped after each pooling and each joining; `batch_norm` normalizes after each convolution.
    """
    skips = []
    for depth in range(DEPTH):
        x = _pair(x, filters * 2**depth, batch_norm, f"down_{depth}")
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool_{depth}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"down_{depth}_dropout")(x)
    x = _pair(x, filters * 2**DEPTH, batch_norm, "bottom")
    for depth in reversed(range(DEPTH)):
        x = layers.Conv2DTranspose(filters * 2**depth, 2, 2, name=f"up_{depth}")(x)
        x = layers.Concatenate(name=f"join_{depth}")([x, skips[depth]])
        if dropout:
            x = layers.Dropout(dropout, name=f"up_{depth}_dropout")(x)
        x = _pair(x, filters * 2**depth, batch_norm, f"after_{depth}")
    return x


def joined(
    features: Mapping[int, keras.KerasTensor], widths: Sequence[int], *, batch_norm: bool = False
) -> keras.KerasTensor:
    """Return features [N,H,W,widths[-1]] from those that another network's way down has by stride: 2, 4 and so on.

    The way up alone, one of `widths` for each stride but the largest.
    """
    strides = sorted(features, reverse=True)
    x = features[strides[0]]
    for stride, width in zip(strides[1:], widths, strict=True):
        x = layers.Conv2DTranspose(width, 2, 2, name=f"up_{stride}")(x)
        x = layers.Concatenate(name=f"join_{stride}")([x, features[stride]])
        x = _pair(x, width, batch_norm, f"after_{stride}")
    return layers.Conv2DTranspose(widths[-1], 2, 2, name="up_1")(x)


def _pair(x: keras.KerasTensor, filters: int, batch_norm: bool, name: str) -> keras.KerasTensor:
    for half in "ab":
        x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"{name}_{half}")(x)
        if batch_norm:
            # Keras forgets over a hundred batches (0.99); a short run moves faster than that.
            x = layers.BatchNormalization(momentum=0.9, name=f"{name}_{half}_norm")(x)
        x = layers.ReLU(name=f"{name}_{half}_relu")(x)
    return x
