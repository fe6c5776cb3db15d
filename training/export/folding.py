"""Batch normalization with stored statistics, folded into the convolution before it.

The answers stay, a step and its memory traffic go, and in bfloat16 two conversions: a service fuses a bias and what
follows with a convolution, but not a product.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from training.weights import normalized_convolutions


def fold(network: keras.Model) -> keras.Model:
    """Return `network` without the batch normalization that follows a convolution alone; `network` itself where there
    is none.

    Kernels that float16 holds exactly are rounded to what it holds.
    """
    pairs = {convolution.name: norm for convolution, norm in normalized_convolutions(network)}
    if not pairs:
        return network
    folded = {norm.name for norm in pairs.values()}

    def copy(layer: layers.Layer) -> layers.Layer:
        if layer.name not in pairs:
            return layer
        return type(layer).from_config(layer.get_config() | {"use_bias": True})

    def call(layer: layers.Layer, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if layer.name in folded else layer(*arguments, **options)

    found = keras.models.clone_model(network, clone_function=copy, call_function=call)
    for name, norm in pairs.items():
        found.get_layer(name).set_weights(_fold_weights(network.get_layer(name), norm))
    return found


def _fold_weights(convolution: layers.Layer, norm: layers.BatchNormalization) -> list[np.ndarray]:
    """Return kernel and bias that do what both layers do."""
    (kernel,) = convolution.get_weights()
    values = dict(zip((variable.name for variable in norm.weights), norm.get_weights(), strict=True))
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + norm.epsilon)
    offset = values.get("beta", 0.0) - values["moving_mean"] * scale
    short = np.array_equal(kernel.astype(np.float16).astype(np.float32), kernel)
    # A depthwise kernel is (h, w, channels, 1).
    shape = (-1, 1) if isinstance(convolution, layers.DepthwiseConv2D) else (-1,)
    kernel = kernel * scale.reshape(shape)
    return [kernel.astype(np.float16).astype(np.float32) if short else kernel, offset]
