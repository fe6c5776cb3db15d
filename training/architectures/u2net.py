"""U²-Netp: the small U²-Net, a U-Net whose every stage is a U-Net itself, for the main object of a picture.

Qin et al. 2020, arXiv 2005.09007. Batch normalization is folded into the convolutions, as in the file that
`convert_weights` reads. Features of another network may join on the way down; their convolutions begin at zero, so
that the network answers as before until it has learned what they are good for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers

from training.bilinear import enlarge

MIDDLE, WIDTH = 16, 64
HEIGHTS = {1: 7, 2: 6, 3: 5, 4: 4}
"""Of stages 1 to 4 (stride 1 to 8) how high their U-Nets are; stages 5 and 6 dilate instead."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(
    image: keras.KerasTensor, others: Mapping[int, keras.KerasTensor] | None = None, *, light: bool = False
) -> list[keras.KerasTensor]:
    """Return logits [N,H,W,1] of `image` [N,H,W,3] in [0, 1], then those of the six sides, coarser and coarser.

    Height and width are multiples of 32. `others` are features by stride (4, 8 or 16) that join there. With `light` the
    last stage, which has more than half of the work of all, is a few narrow convolutions that correct the side before.
    """
    deviation = np.array(DEVIATION)
    x = layers.Rescaling(list(1 / deviation), list(-np.array(MEAN) / deviation), name="normalized")(image)
    found = []
    for number in range(1, 7):
        if number > 1:
            x = layers.MaxPooling2D(name=f"pool_{number}")(x)
        x = _stage(x, number, f"stage{number}")
        more = (others or {}).get(2 ** (number - 1))
        if more is not None:
            x = x + layers.Conv2D(WIDTH, 1, kernel_initializer="zeros", name=f"other_{number}")(more)
        found.append(x)
    decoded = [found[5]]
    for number in range(5, 1 if light else 0, -1):
        x = enlarge(x, 2, f"up_{number}")
        x = _stage(layers.Concatenate(name=f"join_{number}")([x, found[number - 1]]), number, f"stage{number}d")
        decoded.insert(0, x)
    sides = [_side(features, 7 - number) for number, features in enumerate(reversed(decoded), start=1)][::-1]
    if light:
        sides.insert(0, sides[0] + _light_stage(x, found[0]))
    joined = layers.Concatenate(name="sides", dtype="float32")(sides)
    return [layers.Conv2D(1, 1, name="outconv", dtype="float32")(joined), *sides]


def _side(features: keras.KerasTensor, number: int) -> keras.KerasTensor:
    """Return the logits of stage `number` (stride 2 ** (number - 1)) at full size."""
    side = layers.Conv2D(1, 3, padding="same", name=f"side{number}", dtype="float32")(features)
    return enlarge(side, 2 ** (number - 1), f"side{number}_up", "float32") if number > 1 else side


def _light_stage(x: keras.KerasTensor, high: keras.KerasTensor) -> keras.KerasTensor:
    """Return what to add to the logits of stage 2, whose features are `x`; `high` are those of the first stage."""
    low = enlarge(layers.Conv2D(MIDDLE, 1, name="light_low")(x), 2, "up_1")
    x = layers.Concatenate(name="join_1")([low, layers.Conv2D(MIDDLE, 1, name="light_high")(high)])
    x = _convolution(_convolution(x, 2 * MIDDLE, 1, "light_a"), 2 * MIDDLE, 1, "light_b")
    return layers.Conv2D(1, 3, padding="same", kernel_initializer="zeros", name="light_out", dtype="float32")(x)


def _stage(x: keras.KerasTensor, number: int, name: str) -> keras.KerasTensor:
    entrance = _convolution(x, WIDTH, 1, f"{name}_in")
    if number in HEIGHTS:
        return entrance + _nested(entrance, HEIGHTS[number], name)
    return entrance + _dilated(entrance, name)


def _nested(x: keras.KerasTensor, height: int, name: str) -> keras.KerasTensor:
    """Return features of a U-Net of `height` levels."""
    down = []
    for level in range(1, height):
        x = _convolution(x, MIDDLE, 1, f"{name}_{level}")
        down.append(x)
        if level < height - 1:
            x = layers.MaxPooling2D(name=f"{name}_pool_{level}")(x)
    x = _convolution(x, MIDDLE, 2, f"{name}_{height}")
    for level in range(height - 1, 0, -1):
        joined = layers.Concatenate(name=f"{name}_join_{level}")([x, down[level - 1]])
        x = _convolution(joined, MIDDLE if level > 1 else WIDTH, 1, f"{name}_{level}d")
        if level > 1:
            x = enlarge(x, 2, f"{name}_up_{level}")
    return x


def _dilated(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return features of convolutions that reach as far as a U-Net of four levels, at one size."""
    down = []
    for level, rate in enumerate((1, 2, 4), start=1):
        x = _convolution(x, MIDDLE, rate, f"{name}_{level}")
        down.append(x)
    x = _convolution(x, MIDDLE, 8, f"{name}_4")
    for level, rate in ((3, 4), (2, 2), (1, 1)):
        joined = layers.Concatenate(name=f"{name}_join_{level}")([x, down[level - 1]])
        x = _convolution(joined, MIDDLE if level > 1 else WIDTH, rate, f"{name}_{level}d")
    return x


def _convolution(x: keras.KerasTensor, width: int, rate: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(
        width, 3, padding="same", dilation_rate=rate, activation="relu", kernel_initializer="he_normal", name=name
    )(x)


def layer_names() -> list[str]:
    """Return the names of the convolutions in the order of the authors' forward pass."""
    names = []
    for stage in (*(f"stage{i}" for i in range(1, 7)), *(f"stage{i}d" for i in range(5, 0, -1))):
        height = HEIGHTS.get(int(stage[5]), 4)
        down = [f"{stage}_{level}" for level in range(1, height + 1)]
        names += [f"{stage}_in", *down, *(f"{stage}_{level}d" for level in range(height - 1, 0, -1))]
    return [*names, *(f"side{i}" for i in range(1, 7)), "outconv"]


def convert_weights(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of the authors' network, exported as ONNX, under the names of `build`.

    The folded convolutions have numbers for names, which rise in the order of the forward pass: a kernel (out, in, 3,
    3), then its bias.
    """
    numbered = sorted((name for name in stored if name.isdigit()), key=int)
    named: Sequence[str] = [name for side in layer_names()[-7:] for name in (f"{side}.weight", f"{side}.bias")]
    values = [stored[name] for name in (*numbered, *named)]
    converted: dict[str, np.ndarray] = {}
    for layer, kernel, bias in zip(layer_names(), values[::2], values[1::2], strict=True):
        converted |= {f"{layer}/kernel": kernel.transpose(2, 3, 1, 0), f"{layer}/bias": bias}
    return converted
