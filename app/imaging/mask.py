"""From coarse probabilities to a mask whose edges follow the picture, and what is cut out with it.

Full size never meets all classes at once: everything is fitted at the small size, enlarged and applied strip by strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRIP = 256
"""Rows that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class Guided:
    """A linear model of probabilities by colour, one for each small pixel: `slopes` (h, w, classes, 3), `rest` (h, w,
    classes)."""

    slopes: Floats
    rest: Floats


def fit(probabilities: Floats, guide: Floats, *, radius: int = 4, epsilon: float = 1e-3) -> Guided:
    """Return the guided filter's coefficients for `probabilities` (h, w, classes) by `guide` (h, w, 3) in [0, 1].

    The guided filter for a colour guide (He et al. 2010, 2013), windows of 2 radius + 1 by box filters; its
    coefficients are enlarged afterwards instead of its result (He and Sun 2015, arXiv 1505.00996).
    """

    def mean(values: Floats) -> Floats:
        flat = values.reshape(*values.shape[:2], -1)
        side = 2 * radius + 1
        bands = [cv2.boxFilter(band, -1, (side, side), borderType=cv2.BORDER_REFLECT_101) for band in _bands(flat)]
        return np.stack(bands, axis=-1).reshape(values.shape).astype(np.float32)

    mean_guide, mean_found = mean(guide), mean(probabilities)
    spread = mean(guide[..., :, None] * guide[..., None, :]) - mean_guide[..., :, None] * mean_guide[..., None, :]
    common = mean(probabilities[..., :, None] * guide[..., None, :])
    common -= mean_found[..., :, None] * mean_guide[..., None, :]
    inverse = np.linalg.inv(spread + epsilon * np.eye(3, dtype=np.float32))
    slopes = np.einsum("hwij,hwcj->hwci", inverse, common)
    rest = mean_found - np.einsum("hwci,hwi->hwc", slopes, mean_guide)
    return Guided(mean(slopes.astype(np.float32)), mean(rest.astype(np.float32)))


def _bands(values: Floats) -> Iterator[Floats]:
    for band in range(values.shape[-1]):
        yield np.ascontiguousarray(values[..., band])


def strips(height: int) -> Iterator[slice]:
    """Yield the rows of a picture of `height`, STRIP at a time."""
    for top in range(0, height, STRIP):
        yield slice(top, min(top + STRIP, height))


def apply(guided: Guided, pixels: NDArray[Any], rows: slice, size: tuple[int, int]) -> Floats:
    """Return the probabilities of `rows` of a picture of `size` (height, width): float32 (rows, width, classes).

    `pixels` are those rows, (rows, width, 1 or 3), uint8 or uint16.
    """
    guide = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if guide.shape[-1] == 1:
        guide = np.repeat(guide, 3, axis=-1)
    classes = guided.rest.shape[-1]
    found = np.empty((*guide.shape[:2], classes), np.float32)
    for number in range(classes):
        value = _enlarged(guided.rest[..., number], rows, size)
        for band in range(3):
            value += _enlarged(guided.slopes[..., number, band], rows, size) * guide[..., band]
        found[..., number] = value
    return np.clip(found, 0.0, 1.0)


def _enlarged(small: Floats, rows: slice, size: tuple[int, int]) -> Floats:
    """Return `rows` of `small` enlarged bilinearly to `size`, pixel centres aligned: the same whatever the strip."""
    height, width = size
    place = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) * np.float32(small.shape[0] / height) - 0.5
    place = np.clip(place, 0, small.shape[0] - 1)
    above = np.minimum(place.astype(np.intp), max(small.shape[0] - 2, 0))
    below = np.minimum(above + 1, small.shape[0] - 1)
    share = (place - above)[:, None].astype(np.float32)
    part = small[above] * (1 - share) + small[below] * share
    return np.asarray(cv2.resize(part, (width, part.shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def alpha_of(probability: Floats, threshold: float, softness: float = 0.2) -> Floats:
    """Return the opacity, 0 to 1, of what is `probability` foreground: a ramp of ± `softness` around `threshold`.

    At a threshold of 0 everything is opaque, at 1 what is certain.
    """
    softness = min(softness, threshold, 1 - threshold)
    if softness == 0:
        return np.asarray(probability >= threshold, np.float32)
    ramp = (probability - (threshold - softness)) / (2 * softness)
    return np.asarray(np.clip(ramp, 0.0, 1.0), np.float32)


def without_background(pixels: Floats, alpha: Floats, radius: int) -> Floats:
    """Return the colours (h, w, c) of the foreground alone: in a soft edge a pixel is a mixture of two.

    In each window foreground and background are taken for one colour each, by least squares of the mixture
    alpha F + (1 - alpha) B; what they leave unexplained is given to the foreground, as blur fusion does (Forte 2021,
    Approximate Fast Foreground Colour Estimation). Where alpha is 1 nothing changes. What lies more than `radius`
    from any foreground has the colour of its surroundings.
    """
    front, back = alpha[..., None], 1 - alpha[..., None]
    weight = np.float32(1e-4)  # of the window's own mean, which decides where there is nothing to tell the two apart
    mean = _mean(pixels, radius)
    a = _mean(front * front, radius) + weight
    b = _mean(front * back, radius)
    d = _mean(back * back, radius) + weight
    right_front = _mean(front * pixels, radius) + weight * mean
    right_back = _mean(back * pixels, radius) + weight * mean
    scale = 1 / (a * d - b * b)
    colour, behind = scale * (d * right_front - b * right_back), scale * (a * right_back - b * right_front)
    found = np.clip(colour + front * (pixels - front * colour - back * behind), 0.0, 1.0)
    return np.asarray(np.where(front >= 1, pixels, found), np.float32)


def _mean(values: Floats, radius: int) -> Floats:
    side = 2 * radius + 1
    blurred = cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32).reshape(values.shape)
