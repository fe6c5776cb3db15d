"""A reduced Xception as DeepLab uses it: depthwise separable convolutions, strides instead of pooling.

After Chollet 2017 (arXiv 1610.02357) with the changes of DeepLabV3+ (Chen et al. 2018, arXiv 1802.02611), at a third
of the width and depth: nothing pretrained is at hand, and a network that starts from nothing on a few hundred
pictures gains nothing by being larger. Instead of batch normalization, which needs large batches, each residual branch
starts small.
"""

from __future__ import annotations

import keras
from keras import layers

# Of each block of the entry flow: its channels; each halves the picture.
ENTRY = (64, 128, 256)
MIDDLE_BLOCKS = 6
EXIT = (256, 512)


def features(
    image: keras.KerasTensor,
    entry: tuple[int, int, int] = ENTRY,
    middle_blocks: int = MIDDLE_BLOCKS,
    last: tuple[int, int] = EXIT,
) -> dict[int, keras.KerasTensor]:
    """Return features of `image` [N,H,W,3] in [0, 1] by stride: 2 (32 channels), 4 and 16 (`entry[0]`, `last[1]`).

    Height and width are multiples of 16.
    """
    x = layers.Rescaling(2.0, -1.0, name="centred")(image)
    x = _convolution(x, 32, 2, "entry_a")
    found = {2: x}
    x = _convolution(x, 32, 1, "entry_b")
    for number, channels in enumerate(entry):
        x = _block(x, (channels,) * 3, 2, 1, f"entry_{number}")
        found.setdefault(2 * 2 ** (number + 1), x)
    for number in range(middle_blocks):
        x = _block(x, (x.shape[-1],) * 3, 1, 1, f"middle_{number}")
    x = _block(x, (last[0], last[0], last[1]), 1, 2, "exit")
    return {2: found[2], 4: found[4], 16: x}


def _block(
    x: keras.KerasTensor, channels: tuple[int, int, int], stride: int, dilation: int, name: str
) -> keras.KerasTensor:
    y = x
    for number, (width, step) in enumerate(zip(channels, (1, 1, stride), strict=True)):
        y = layers.ReLU(name=f"{name}_{number}_relu")(y)
        y = layers.DepthwiseConv2D(
            3,
            step,
            "same",
            dilation_rate=dilation if step == 1 else 1,
            use_bias=False,
            name=f"{name}_{number}_depthwise",
        )(y)
        start = _start(2.0 if number < 2 else 0.1)
        y = layers.Conv2D(width, 1, kernel_initializer=start, name=f"{name}_{number}_pointwise")(y)
    if stride > 1 or x.shape[-1] != y.shape[-1]:
        x = layers.Conv2D(y.shape[-1], 1, stride, kernel_initializer=_start(1.0), name=f"{name}_shortcut")(x)
    return x + y


def _convolution(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(width, 3, stride, "same", kernel_initializer=_start(2.0), name=name)(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _start(scale: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(scale, "fan_in", "truncated_normal")
