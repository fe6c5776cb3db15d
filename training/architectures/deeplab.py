"""DeepLabV3+'s head: features of many reaches, and a decoder that brings edges back.

After Chen et al. 2018 (arXiv 1802.02611): atrous spatial pyramid pooling with depthwise separable convolutions and
image-level features, then a decoder that joins features reduced by 1x1 convolutions. Two things differ. The coarse
answer of the pyramid is a part of the sum that is returned, so that a trained DeepLabV3 is a start and what the decoder
adds begins at nothing; and the decoder goes on to stride 2, because poles and signs are thinner than four pixels.
Nothing here is normalized: batches are small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
from keras import layers, ops

from training.bilinear import enlarge


def build(
    features: Mapping[int, keras.KerasTensor], classes: int, *, rates: Sequence[int] = (6, 12, 18), width: int = 128
) -> keras.KerasTensor:
    """Return logits [N,H,W,classes] from features by stride: 2, 4 and 16 (or 8, with doubled `rates`)."""
    stride = max(features)
    x = features[stride]
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    pooled = _pointwise(pooled, 256, "image_pooling")
    pooled = pooled + ops.zeros_like(x[..., :1])  # the same everywhere
    near = layers.Concatenate(name="concat")([pooled, _pointwise(x, 256, "aspp0")])
    far = [_separable(x, 256, f"aspp{i}", rate) for i, rate in enumerate(rates, start=1)]
    # One convolution over all five branches, in two halves: a DeepLabV3 for phones has the first.
    joined = layers.Conv2D(256, 1, name="concat_projection")(near)
    joined = joined + layers.Conv2D(256, 1, kernel_initializer=_small(0.1), use_bias=False, name="atrous_projection")(
        layers.Concatenate(name="atrous")(far)
    )
    joined = layers.ReLU(name="concat_projection_relu")(joined)
    coarse = layers.Conv2D(classes, 1, name="logits", dtype="float32")(joined)

    y = _enlarged(_pointwise(joined, width, "decoder_entrance"), stride // 4, "decoder_up_4")
    y = layers.Concatenate(name="decoder_join_4")([y, _pointwise(features[4], 48, "low_4")])
    y = _separable(_separable(y, width, "decoder_4_a"), width, "decoder_4_b")
    y = _enlarged(_pointwise(y, width // 2, "decoder_reduce"), 2, "decoder_up_2")
    y = layers.Concatenate(name="decoder_join_2")([y, _pointwise(features[2], 32, "low_2")])
    y = _separable(y, width // 2, "decoder_2")
    fine = layers.Conv2D(classes, 1, kernel_initializer=_small(0.01), name="decoder_logits", dtype="float32")(y)
    return _enlarged(fine + _enlarged(coarse, stride // 2, "logits_up"), 2, "up")


def _pointwise(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(width, 1, activation="relu", kernel_initializer=_small(2.0), name=name)(x)


def _separable(x: keras.KerasTensor, width: int, name: str, rate: int = 1) -> keras.KerasTensor:
    x = layers.DepthwiseConv2D(3, padding="same", dilation_rate=rate, name=f"{name}_depthwise")(x)
    return _pointwise(x, width, name)


def _enlarged(x: keras.KerasTensor, factor: int, name: str) -> keras.KerasTensor:
    return enlarge(x, factor, name, "float32")


def _small(scale: float) -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(scale, "fan_in", "truncated_normal")
