"""Opacity of a foreground from its probability, and the foreground's own colors in soft edges."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.picture import Floats


def compute_alpha(probability: Floats, threshold: float, softness: float = 0.2) -> Floats:
    """Return the opacity, float32 in [0, 1], for the `probability` of foreground, any shape, in [0, 1].

    It rises linearly from threshold - softness to threshold + softness. At a threshold of 0 everything is opaque, at 1
    only what has probability 1.
    """
    softness = min(softness, threshold, 1 - threshold)
    if softness == 0:
        return np.asarray(probability >= threshold, np.float32)
    ramp = (probability - (threshold - softness)) / (2 * softness)
    return np.asarray(np.clip(ramp, 0.0, 1.0), np.float32)


def harden_alpha(alpha: NDArray[Any], radius: int) -> NDArray[Any]:
    """Return `alpha`, uint8 or uint16 (height, width), with intermediate values only near edges.

    Further than `radius` pixels from an edge (where alpha crosses one half) it becomes 0 or the maximum: an object that
    the network is unsure of would otherwise be half transparent as a whole.
    """
    white = np.iinfo(alpha.dtype).max
    inside = (alpha > white // 2).astype(np.uint8)
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    opaque = cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).view(np.bool_)
    near = cv2.dilate(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(np.bool_)
    return np.where(opaque, alpha.dtype.type(white), np.where(near, alpha, alpha.dtype.type(0)))


def estimate_foreground(pixels: Floats, alpha: Floats, radius: int) -> Floats:
    """Return the colors of the foreground alone, float32 (h, w, c) in [0, 1]: pixels of soft edges are mixtures.

    `pixels` is (h, w, c), `alpha` (h, w), both in [0, 1]. In each window of 2 radius + 1 pixels foreground F and
    background B are one color each, by least squares of the mixture alpha F + (1 - alpha) B; the residual is added to
    the foreground, as in blur fusion (Forte 2021, Approximate Fast Foreground Colour Estimation). Where alpha is 1
    nothing changes. Further than `radius` from any foreground, the result has the color of the surroundings.
    """
    front, back = alpha[..., None], 1 - alpha[..., None]
    weight = np.float32(1e-4)  # of the window's mean, for windows in which F and B cannot be separated
    mean = _mean(pixels, radius)
    a = _mean(front * front, radius) + weight
    b = _mean(front * back, radius)
    d = _mean(back * back, radius) + weight
    right_front = _mean(front * pixels, radius) + weight * mean
    right_back = _mean(back * pixels, radius) + weight * mean
    scale = 1 / (a * d - b * b)
    foreground, background = scale * (d * right_front - b * right_back), scale * (a * right_back - b * right_front)
    result = np.clip(foreground + front * (pixels - front * foreground - back * background), 0.0, 1.0)
    return np.asarray(np.where(front >= 1, pixels, result), np.float32)


def _mean(values: Floats, radius: int) -> Floats:
    side = 2 * radius + 1
    blurred = cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32).reshape(values.shape)
