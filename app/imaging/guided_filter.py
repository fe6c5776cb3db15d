"""Guided filter: enlarges coarse class probabilities so that their edges follow the picture.

The filter is fitted at the small size and applied to strips of the full-size picture, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.picture import Floats

MAX_STRIP_ROWS = 256
MAX_STRIP_PIXELS = 2**20


@dataclass(frozen=True, slots=True)
class GuidedFilter:
    """A linear model, per small pixel, of class probabilities by color: probability = slopes · color + intercepts.

    `slopes` is float32 (h, w, classes, 3), `intercepts` float32 (h, w, classes), for the classes in `class_indices` of
    all `class_count`; the other classes have probability 0 everywhere.
    """

    slopes: Floats
    intercepts: Floats
    class_indices: tuple[int, ...]
    class_count: int


def fit(probabilities: Floats, guide: Floats, *, radius: int = 4, epsilon: float = 1e-3) -> GuidedFilter:
    """Return the filter's coefficients for `probabilities` (h, w, classes) by `guide` (h, w, 3), float32 in [0, 1].

    The guided filter for a color guide (He et al. 2010, 2013), with box windows of 2 radius + 1 pixels. Its
    coefficients are enlarged instead of its result (fast guided filter, He and Sun 2015, arXiv 1505.00996). Classes
    whose probability is below 0.5 / classes everywhere are left out: they win nowhere, and each costs as much as any
    other.
    """
    classes = probabilities.shape[-1]
    indices = np.flatnonzero(probabilities.max(axis=(0, 1)) >= 0.5 / classes) if classes > 1 else np.zeros(1, np.intp)
    probabilities = probabilities[..., indices]

    def mean(values: Floats) -> Floats:
        return box_mean(values, radius)

    mean_guide, mean_probabilities = mean(guide), mean(probabilities)
    covariance = mean(guide[..., :, None] * guide[..., None, :]) - mean_guide[..., :, None] * mean_guide[..., None, :]
    cross_covariance = mean(probabilities[..., :, None] * guide[..., None, :])
    cross_covariance -= mean_probabilities[..., :, None] * mean_guide[..., None, :]
    slopes = cross_covariance @ _invert(covariance + epsilon * np.eye(3, dtype=np.float32))
    intercepts = np.asarray(mean_probabilities - (slopes @ mean_guide[..., None])[..., 0], np.float32)
    return GuidedFilter(mean(slopes), mean(intercepts), tuple(map(int, indices)), classes)


def smooth(values: Floats, guide: Floats, where: NDArray[np.bool_], *, radius: int, epsilon: float) -> Floats:
    """Return `values` (h, w) filtered with `guide` (h, w, 1 or 3), float32 in [0, 1], at full size.

    Only pixels in `where` (h, w) are right: the windows that they are in are the only ones that are solved.
    """
    if guide.shape[-1] == 1:
        guide = np.repeat(guide, 3, axis=-1)
    solved = cv2.dilate(where.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)).view(np.bool_)
    pairs = [guide[..., i] * guide[..., j] for i in range(3) for j in range(i, 3)]
    products = np.dstack([guide, values, guide * values[..., None], *pairs])
    means = box_mean(products, radius)[solved]
    color, value, cross = means[:, :3], means[:, 3], means[:, 4:7]
    square = means[:, 7:][:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    covariance = square - color[:, :, None] * color[:, None, :] + epsilon * np.eye(3, dtype=np.float32)
    slopes = ((cross - color * value[:, None])[:, None, :] @ _invert(covariance))[:, 0]
    model = np.zeros((*values.shape, 4), np.float32)
    model[solved] = np.column_stack([slopes, value - (slopes * color).sum(axis=-1)])
    model = box_mean(model, radius)
    return np.asarray(np.clip(np.einsum("ijk,ijk->ij", model[..., :3], guide) + model[..., 3], 0.0, 1.0), np.float32)


def box_mean(values: Floats, radius: int) -> Floats:
    """Return the means of `values` (h, w, …) in windows of 2 radius + 1 pixels, float32 of the same shape."""
    flat = np.ascontiguousarray(values.reshape(*values.shape[:2], -1))
    boxed = cv2.boxFilter(flat, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(boxed, np.float32).reshape(values.shape)


def _invert(matrices: Floats) -> Floats:
    """Return the inverses of symmetric matrices, float32 (..., 3, 3), by cofactors: faster than LAPACK per matrix.

    Computed in double precision: at an edge of two flat colors the matrix has nearly rank 1, and cofactors cancel.
    """
    (a, b, c), (_, d, e), (_, _, f) = np.moveaxis(matrices.astype(np.float64), (-2, -1), (0, 1))
    aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
    bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
    cofactors = np.stack([aa, ab, ac, ab, bb, bc, ac, bc, cc], axis=-1).reshape(matrices.shape)
    return np.asarray(cofactors / (a * aa + b * ab + c * ac)[..., None, None], np.float32)


def split_rows(height: int, width: int, min_rows: int = 16) -> Iterator[slice]:
    """Yield the rows of a picture as strips of at most MAX_STRIP_ROWS and MAX_STRIP_PIXELS, but at least `min_rows`."""
    rows = max(min_rows, min(MAX_STRIP_ROWS, MAX_STRIP_PIXELS // width))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def apply(guided: GuidedFilter, pixels: NDArray[Any], rows: slice, size: tuple[int, int]) -> Floats:
    """Return the probabilities, float32 (rows, width, classes) in [0, 1], of `rows` of a picture of `size`.

    `size` is (height, width) of the whole picture; `pixels` are its `rows`: uint8 or uint16, (rows, width, 1 or 3).
    """
    guide = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if guide.shape[-1] == 1:
        guide = np.repeat(guide, 3, axis=-1)
    result = np.zeros((*guide.shape[:2], guided.class_count), np.float32)
    for number, index in enumerate(guided.class_indices):
        value = upsample_rows(guided.intercepts[..., number], rows, size)
        for channel in range(3):
            value += upsample_rows(guided.slopes[..., number, channel], rows, size) * guide[..., channel]
        result[..., index] = value
    return np.clip(result, 0.0, 1.0)


def upsample_rows(small: Floats, rows: slice, size: tuple[int, int]) -> Floats:
    """Return `rows` of `small` (h, w) enlarged bilinearly to `size` (height, width): float32, (rows, width).

    Pixel centers are aligned, and a row's values do not depend on which strip it is in.
    """
    height, width = size
    position = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) * np.float32(small.shape[0] / height) - 0.5
    position = np.clip(position, 0, small.shape[0] - 1)
    above = np.minimum(position.astype(np.intp), max(small.shape[0] - 2, 0))
    below = np.minimum(above + 1, small.shape[0] - 1)
    weight = (position - above)[:, None].astype(np.float32)
    part = small[above] * (1 - weight) + small[below] * weight
    return np.asarray(cv2.resize(part, (width, part.shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)
