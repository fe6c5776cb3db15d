"""Bilinear enlargement by a whole factor."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops
from keras.src import backend


def enlarge(x: keras.KerasTensor, factor: int, name: str, dtype: str | None = None) -> keras.KerasTensor:
    """Return [N,factor*H,factor*W,C] of `x` [N,H,W,C], pixel centres aligned, in the dtype of its layers or `dtype`."""
    return _Bilinear(factor, dtype=dtype, name=name)(x)


class _Bilinear(layers.UpSampling2D):
    def __init__(self, factor: int, **options: Any) -> None:
        super().__init__(factor, interpolation="bilinear", **options)

    def call(self, inputs: Any) -> Any:
        # What `ops.image.resize` does after its check, which (Keras 3.15) refuses a size that is no number until a
        # picture comes, as in a SavedModel: keras-team/keras, pull request 22079.
        size = [side * factor for side, factor in zip(ops.shape(inputs)[1:3], self.size, strict=True)]
        resized = backend.image.resize(inputs, size, interpolation="bilinear", data_format="channels_last")
        return ops.cast(resized, inputs.dtype)
