"""Tells, place by place, whether a picture was reduced without a filter: by how its energy is spread over frequencies.

A filter leaves little at the highest frequencies; without one, what it would have taken away is folded back there.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from training.bilinear import enlarge

WINDOW = 23
"""Places of the grid that an answer is averaged over, each 4x4 pixels: flat places and soft ones tell nothing."""
_BLOCK = 4
_FLOOR = 1e-5  # the energy of rounding to 8 bit


def build() -> keras.Model:
    """Return image [N,H,W,3] -> evidence [N,H,W,1]: above 0 it is probable, the logit. Sides are multiples of 4."""
    image = keras.Input((None, None, 3), name="image")
    luma = ops.mean(image, axis=-1, keepdims=True)
    responses = ops.conv(luma, ops.convert_to_tensor(_cosines()), strides=2, padding="same")
    energy = ops.average_pool(ops.square(responses), 2, strides=2)
    energy = ops.average_pool(energy, WINDOW, strides=1, padding="same")
    # Turned by 90 degrees, a picture is what it was.
    symmetric = ops.conv(energy, ops.convert_to_tensor(_pairs()))
    features = ops.log(symmetric + _FLOOR)
    answer = layers.Conv2D(1, 1, kernel_initializer="zeros", name="aliasing", dtype="float32")(features)
    return keras.Model({"image": image}, {"evidence": enlarge(answer, _BLOCK, "aliasing_enlarge")}, name="detector")


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


def solve(network: keras.Model, small: np.ndarray, truth: np.ndarray, steps: int = 12) -> None:
    """Set the weights to those under which `truth`, bool (N,), is most probable (logistic regression, by Newton's
    method), from what is seen in the middle of pictures `small`, float32 (N,h,w,3) in [0, 1]."""
    layer = network.get_layer("aliasing")
    seen = keras.Model(network.input, {"features": layer.input})({"image": small})["features"]
    middle = ops.convert_to_numpy(seen)[:, seen.shape[1] // 2, seen.shape[2] // 2].astype(np.float64)
    mean, spread = middle.mean(axis=0), middle.std(axis=0) + 1e-6
    found = np.concatenate([(middle - mean) / spread, np.ones((len(middle), 1))], axis=1)
    weights = np.zeros(found.shape[1])
    for _ in range(steps):
        probable = 1 / (1 + np.exp(-found @ weights))
        curvature = (found * (probable * (1 - probable))[:, None]).T @ found + np.eye(len(weights))
        weights += np.linalg.solve(curvature, found.T @ (truth - probable) - weights)
    slope = weights[:-1] / spread
    layer.set_weights([slope.reshape(layer.kernel.shape), np.array([weights[-1] - slope @ mean])])
