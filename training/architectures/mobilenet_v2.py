"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) as a backbone for dense prediction.

Layers are named as in `keras.applications.MobileNetV2`, so that its weights can be taken by name.
"""

from __future__ import annotations

import keras
from keras import layers

# Of each group of blocks: expansion, channels, blocks, stride of the first.
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def features(image: keras.KerasTensor, *, stride: int = 16, groups: int = len(GROUPS)) -> dict[int, keras.KerasTensor]:
    """Return features of `image` [N,H,W,3] in [0, 1] by stride: 2 (16 channels), 4 (144), 8 (192) and `stride` (320).

    Height and width are multiples of `stride`, 8 or 16: where the network would reduce further, it dilates instead.
    It ends after `groups` of GROUPS: with five it reaches less far, and the last features have 96 channels.
    Normalisation uses the stored statistics always: those of the few pictures of a batch are too noisy here.
    """
    x = layers.Rescaling(2.0, -1.0, name="centred")(image)
    x = _relu(_norm(layers.Conv2D(32, 3, 2, "same", use_bias=False, name="Conv1")(x), "bn_Conv1"), "Conv1_relu")
    found: dict[int, keras.KerasTensor] = {}
    reduced, dilation, number = 2, 1, 0
    for expansion, channels, blocks, step in GROUPS[:groups]:
        for i in range(blocks):
            own, widened = (step if i == 0 else 1), 1
            if own == 2 and reduced == stride:
                own, widened = 1, 2
            x, expanded = _block(
                x, expansion, channels, own, dilation, f"block_{number}" if number else "expanded_conv"
            )
            if own == 2:
                found.setdefault(reduced, expanded)
                reduced *= 2
            dilation *= widened
            if number == 0:
                found[2] = x
            number += 1
    return found | {stride: x}


def _block(
    x: keras.KerasTensor, expansion: int, channels: int, stride: int, dilation: int, name: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the block's answer and its expanded input, the richest features before a reduction."""
    expanded = x
    if expansion > 1:
        widen = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")
        expanded = _relu(_norm(widen(x), f"{name}_expand_BN"), f"{name}_expand_relu")
    depthwise = layers.DepthwiseConv2D(
        3, stride, "same", dilation_rate=dilation, use_bias=False, name=f"{name}_depthwise"
    )
    y = _relu(_norm(depthwise(expanded), f"{name}_depthwise_BN"), f"{name}_depthwise_relu")
    y = _norm(layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(y), f"{name}_project_BN")
    return (x + y if stride == 1 and x.shape[-1] == channels else y), expanded


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=name)(x, training=False)


def _relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(6.0, name=name)(x)
