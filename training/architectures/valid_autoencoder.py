"""The autoencoder of the article on inpainting: valid convolutions, skip connections, LeakyReLU of 0.2.

Two valid 3x3 convolutions and a halving a level take four pixels and then half of what is left: three levels close at
sizes that leave 4 when divided by 8, such as the article's 228 and the 100 of the pack. On the way up, transposed
convolutions give the four pixels back and what went down is added (Mao et al. 2016, arXiv 1603.09056).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build(x: keras.KerasTensor, *, widths: Sequence[int] = (24, 48, 96)) -> keras.KerasTensor:
    """Return features [N,H,W,widths[0]] of `x` [N,H,W,C]; with three widths, height and width leave 4 by 8."""
    skips = []
    for depth, width in enumerate(widths):
        for half in "ab":
            x = _leaky(layers.Conv2D(width, 3, kernel_initializer="he_normal", name=f"down_{depth}_{half}")(x))
        skips.append(x)
        x = layers.AveragePooling2D(2, name=f"pool_{depth}")(x)
    x = _leaky(layers.Conv2D(2 * widths[-1], 3, padding="same", kernel_initializer="he_normal", name="code")(x))
    for depth, width in reversed(list(enumerate(widths))):
        x = layers.UpSampling2D(name=f"enlarge_{depth}")(x)
        x = layers.Conv2D(width, 1, kernel_initializer="he_normal", name=f"join_{depth}")(x) + skips[depth]
        for half in "ab":
            made = layers.Conv2DTranspose(width, 3, kernel_initializer="he_normal", name=f"up_{depth}_{half}")
            x = _leaky(made(x))
    return x


def _leaky(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.LeakyReLU(negative_slope=0.2)(x)
