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

STRIP = 256, 2**20
"""Rows, and pixels, that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class Guided:
    """A linear model of probabilities by colour for each small pixel: `slopes` (h, w, kept, 3), `rest` (h, w, kept).

    `kept` are the places of those of the `classes` that may be found; the rest has no probability anywhere.
    """

    slopes: Floats
    rest: Floats
    kept: tuple[int, ...]
    classes: int


def fit(probabilities: Floats, guide: Floats, *, radius: int = 4, epsilon: float = 1e-3) -> Guided:
    """Return the guided filter's coefficients for `probabilities` (h, w, classes) by `guide` (h, w, 3) in [0, 1].

    The guided filter for a colour guide (He et al. 2010, 2013), windows of 2 radius + 1 by box filters; its
    coefficients are enlarged afterwards instead of its result (He and Sun 2015, arXiv 1505.00996). Classes that have
    less than half an equal share everywhere are left out: they could win nowhere, and each costs as much as any other.
    """
    classes = probabilities.shape[-1]
    kept = np.flatnonzero(probabilities.max(axis=(0, 1)) >= 0.5 / classes) if classes > 1 else np.zeros(1, np.intp)
    probabilities = probabilities[..., kept]

    def mean(values: Floats) -> Floats:
        flat = np.ascontiguousarray(values.reshape(*values.shape[:2], -1))
        side = (2 * radius + 1, 2 * radius + 1)
        boxed = cv2.boxFilter(flat, -1, side, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(boxed, np.float32).reshape(values.shape)

    mean_guide, mean_found = mean(guide), mean(probabilities)
    spread = mean(guide[..., :, None] * guide[..., None, :]) - mean_guide[..., :, None] * mean_guide[..., None, :]
    common = mean(probabilities[..., :, None] * guide[..., None, :])
    common -= mean_found[..., :, None] * mean_guide[..., None, :]
    slopes = common @ _inverse(spread + epsilon * np.eye(3, dtype=np.float32))
    rest = np.asarray(mean_found - (slopes @ mean_guide[..., None])[..., 0], np.float32)
    return Guided(mean(slopes), mean(rest), tuple(map(int, kept)), classes)


def _inverse(matrices: Floats) -> Floats:
    """Return the inverses of symmetric matrices (..., 3, 3), by cofactors: faster than one call of LAPACK for each.

    In double precision: in an edge of two flat colours the matrix has one direction, and cofactors nearly cancel.
    """
    (a, b, c), (_, d, e), (_, _, f) = np.moveaxis(matrices.astype(np.float64), (-2, -1), (0, 1))
    aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
    bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
    cofactors = np.stack([aa, ab, ac, ab, bb, bc, ac, bc, cc], axis=-1).reshape(matrices.shape)
    return np.asarray(cofactors / (a * aa + b * ab + c * ac)[..., None, None], np.float32)


def strips(height: int, width: int, least: int = 16) -> Iterator[slice]:
    """Yield the rows of a picture, a strip at a time: as many as STRIP allows, but at least `least`."""
    most = max(least, min(STRIP[0], STRIP[1] // width))
    for top in range(0, height, most):
        yield slice(top, min(top + most, height))


def apply(guided: Guided, pixels: NDArray[Any], rows: slice, size: tuple[int, int]) -> Floats:
    """Return the probabilities of `rows` of a picture of `size` (height, width): float32 (rows, width, classes).

    `pixels` are those rows, (rows, width, 1 or 3), uint8 or uint16.
    """
    guide = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if guide.shape[-1] == 1:
        guide = np.repeat(guide, 3, axis=-1)
    found = np.zeros((*guide.shape[:2], guided.classes), np.float32)
    for number, place in enumerate(guided.kept):
        value = enlarged(guided.rest[..., number], rows, size)
        for band in range(3):
            value += enlarged(guided.slopes[..., number, band], rows, size) * guide[..., band]
        found[..., place] = value
    return np.clip(found, 0.0, 1.0)


def enlarged(small: Floats, rows: slice, size: tuple[int, int]) -> Floats:
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


def decided(alpha: NDArray[Any], radius: int) -> NDArray[Any]:
    """Return opacity (height, width), uint8 or uint16, that is in between only near an edge.

    Further than `radius` from where it crosses a half, to any side, it is all or nothing: a network that is not sure
    of a thing leaves it half transparent as a whole, which nobody wants behind or in front of anything.
    """
    white = np.iinfo(alpha.dtype).max
    inside = (alpha > white // 2).astype(np.uint8)
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    within = cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).view(np.bool_)
    near = cv2.dilate(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(np.bool_)
    return np.where(within, alpha.dtype.type(white), np.where(near, alpha, alpha.dtype.type(0)))


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
