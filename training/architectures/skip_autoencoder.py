"""A convolutional autoencoder with additive skip connections, for pictures that are enlarged already.

After Mao et al. 2016 (RED-Net, arXiv 1603.09056), as the article on U-Net and autoencoders has it for
faces: strided convolutions down, nearest up-sampling up.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build(x: keras.KerasTensor, widths: Sequence[int] = (48, 96, 128)) -> keras.KerasTensor:
    """Return features [N,H,W,widths[0]] of `x` [N,H,W,C]; height and width are multiples of 2 ** (len(widths) - 1)."""
    skips = []
    for depth, width in enumerate(widths):
        if depth:
            x = _convolution(x, width, f"down_{depth}", stride=2)
        x = _convolution(x, width, f"encoder_{depth}")
        skips.append(x)
    x = _convolution(x, widths[-1], "code")
    for depth in reversed(range(len(widths))):
        x = _convolution(x + skips[depth], widths[depth], f"decoder_{depth}")
        if depth:
            x = layers.UpSampling2D(name=f"up_{depth}")(x)
            x = _convolution(x, widths[depth - 1], f"after_up_{depth}")
    return x


def _convolution(x: keras.KerasTensor, width: int, name: str, stride: int = 1) -> keras.KerasTensor:
    made = layers.Conv2D(width, 3, stride, padding="same", activation="relu", kernel_initializer="he_normal", name=name)
    return made(x)
