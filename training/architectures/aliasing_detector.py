"""Tells whether a picture was reduced without a filter: by how its energy is spread over frequencies.

A filter leaves little at the highest frequencies; without one, what it would have taken away is folded back there.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

_BLOCK = 4
_WINDOW = 7  # places, each two pixels from the next
_FLOOR = 1e-5  # the energy of rounding to 8 bit
_FAINT, _DOUBT = 1e-4, 1.0
"""The energy of a picture that half of the evidence counts of, and how far below 0 it is where there is none: flat
pictures tell nothing."""


def build(answers: int) -> keras.Model:
    """Return image [N,H,W,3] -> evidence [N,1,1,answers]: above 0 it is probable, the logit.

    There is an answer for each way to ask, such as a scale. All see the same of the picture as a whole, for each
    frequency: the mean energy, which edges make; the mean magnitude, which has more of texture; and the mean logarithm
    of the energy of small windows, most of which have nothing but noise.
    """
    image = keras.Input((None, None, 3), name="image")
    luma = ops.mean(image, axis=-1, keepdims=True)
    responses = ops.conv(luma, ops.convert_to_tensor(_cosines()), strides=2, padding="valid")
    # Turned by 90 degrees, a picture is what it was.
    pairs = ops.convert_to_tensor(_pairs())
    energy, magnitude = ops.conv(ops.square(responses), pairs), ops.conv(ops.abs(responses), pairs)
    windows = ops.average_pool(energy, _WINDOW, strides=1, padding="same")
    features = ops.concatenate(
        [
            ops.log(ops.mean(energy, axis=(1, 2), keepdims=True) + _FLOOR),
            2.0 * ops.log(ops.mean(magnitude, axis=(1, 2), keepdims=True) + _FLOOR**0.5),
            ops.mean(ops.log(windows + _FLOOR), axis=(1, 2), keepdims=True),
        ],
        axis=-1,
    )
    evidence = layers.Conv2D(answers, 1, kernel_initializer="zeros", name="aliasing", dtype="float32")(features)
    total = ops.sum(ops.mean(energy, axis=(1, 2), keepdims=True), axis=-1, keepdims=True)
    evidence = (evidence + _DOUBT) * total / (total + _FAINT) - _DOUBT
    return keras.Model({"image": image}, {"evidence": evidence}, name="detector")


def _cosines() -> np.ndarray:
    """Return the cosine transform of 4x4 pixels without its mean as kernels, float32 (4, 4, 1, 15)."""
    places = np.arange(_BLOCK)
    waves = np.cos(np.pi * (2 * places[None] + 1) * places[:, None] / (2 * _BLOCK))
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    kernels = np.einsum("iy,jx->yxij", waves, waves).reshape(_BLOCK, _BLOCK, 1, -1)
    return kernels[..., 1:].astype(np.float32)


def _pairs() -> np.ndarray:
    """Return the kernel, float32 (1, 1, 15, 9), that adds each frequency to the one of its mirror image."""
    names = [tuple(sorted(divmod(number, _BLOCK))) for number in range(1, _BLOCK**2)]
    kinds = sorted(set(names))
    return np.array([[name == kind for kind in kinds] for name in names], np.float32)[None, None]


def solve(network: keras.Model, answer: int, small: np.ndarray, truth: np.ndarray, steps: int = 12) -> None:
    """Set the weights of an answer to those under which `truth`, in [0, 1] (N,), is most probable for pictures `small`,
    float32 (N,h,w,3) in [0, 1] (logistic regression, by Newton's method)."""
    layer = network.get_layer("aliasing")
    features = keras.Model(network.input, {"features": layer.input})
    seen = ops.convert_to_numpy(features.predict({"image": small}, verbose=0)["features"])
    seen = seen.reshape(len(small), -1).astype(np.float64)
    mean, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    found = np.concatenate([(seen - mean) / spread, np.ones((len(seen), 1))], axis=1)
    weights = np.zeros(found.shape[1])
    for _ in range(steps):
        probable = 1 / (1 + np.exp(-found @ weights))
        curvature = (found * (probable * (1 - probable))[:, None]).T @ found + np.eye(len(weights))
        weights += np.linalg.solve(curvature, found.T @ (truth - probable) - weights)
    slope = weights[:-1] / spread
    kernel, bias = layer.get_weights()
    kernel[0, 0, :, answer], bias[answer] = slope, weights[-1] - slope @ mean
    layer.set_weights([kernel, bias])
