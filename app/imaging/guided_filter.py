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

from app.imaging.compilation import compiled
from app.imaging.picture import Floats

MAX_STRIP_ROWS = 256
MAX_STRIP_PIXELS = 2**20
BLOCK = 128
"""Pixels a side of the blocks that are left out of `smooth` where nothing in them is wanted."""


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
    models = _fit_models(probabilities[..., indices], guide, np.ones(guide.shape[:2], np.bool_), radius, epsilon)
    return GuidedFilter(models[..., :3], models[..., 3], tuple(map(int, indices)), classes)


def smooth(values: Floats, guide: Floats, where: NDArray[np.bool_], *, radius: int, epsilon: float) -> Floats:
    """Return `values` (h, w) filtered with `guide` (h, w, 1 or 3), float32 in [0, 1], at full size.

    Only pixels in `where` (h, w) are right: the windows that they are in are the only ones that are solved.
    """
    if guide.shape[-1] == 1:
        guide = np.repeat(guide, 3, axis=-1)
    result = np.zeros(values.shape, np.float32)
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    for part, inner in _split(where, 2 * radius):
        wanted = np.zeros(values[part].shape, np.bool_)
        wanted[inner] = where[part][inner]
        solved = cv2.dilate(wanted.astype(np.uint8), window).view(np.bool_)
        color = np.ascontiguousarray(guide[part])
        models = _fit_models(values[part][..., None], color, solved, radius, epsilon)
        result[part] += _apply_models(models, color, wanted)
    return result


def _split(where: NDArray[np.bool_], margin: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield parts of a picture with a margin, and what of each is inner: together that has all pixels in `where`."""
    for top in range(0, where.shape[0], BLOCK):
        for left in range(0, where.shape[1], BLOCK):
            block = where[top : top + BLOCK, left : left + BLOCK]
            if not block.any():
                continue
            part, inner = [], []
            for axis, begin in enumerate((top, left)):
                found = np.flatnonzero(block.any(axis=1 - axis))
                first, end = begin + int(found[0]), begin + int(found[-1]) + 1
                part.append(slice(max(0, first - margin), min(where.shape[axis], end + margin)))
                inner.append(slice(first - part[-1].start, end - part[-1].start))
            yield tuple(part), tuple(inner)


def box_mean(values: Floats, radius: int) -> Floats:
    """Return the means of `values` (h, w, …) in windows of 2 radius + 1 pixels, float32 of the same shape."""
    flat = np.ascontiguousarray(values.reshape(*values.shape[:2], -1))
    boxed = cv2.boxFilter(flat, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(boxed, np.float32).reshape(values.shape)


def _fit_models(values: Floats, guide: Floats, where: NDArray[np.bool_], radius: int, epsilon: float) -> Floats:
    """Return slopes and intercept of each of `values` (h, w, n) by `guide` (h, w, 3), float32 (h, w, n, 4).

    They are means over the windows that a pixel is in, of those around pixels in `where`.
    """
    height, width, count = values.shape
    products = np.empty((height, width, 9 + 4 * count), np.float32)
    _multiply(np.ascontiguousarray(values), np.ascontiguousarray(guide), products)
    models = np.zeros((height, width, count, 4), np.float32)
    _solve_windows(box_mean(products, radius), where, epsilon, models)
    return box_mean(models, radius)


@compiled
def _multiply(values: Any, guide: Any, products: Any) -> None:
    """Fill `products` (h, w, 9 + 4 n): the guide, its six products with itself, and of each value, it and its products
    with the guide."""
    height, width, count = values.shape
    for y in range(height):
        for x in range(width):
            place = 3
            for i in range(3):
                products[y, x, i] = guide[y, x, i]
                for j in range(i, 3):
                    products[y, x, place] = guide[y, x, i] * guide[y, x, j]
                    place += 1
            for n in range(count):
                products[y, x, place] = values[y, x, n]
                for i in range(3):
                    products[y, x, place + 1 + i] = values[y, x, n] * guide[y, x, i]
                place += 4


@compiled
def _solve_windows(means: Any, where: Any, epsilon: Any, models: Any) -> None:
    """Fill `models` (h, w, n, 4) at pixels in `where`: the least squares of their windows, by means of products.

    In double precision: at an edge of two flat colors the covariance has nearly rank 1, and cofactors cancel.
    """
    height, width, count, _ = models.shape
    for y in range(height):
        for x in range(width):
            if not where[y, x]:
                continue
            mean = means[y, x].astype(np.float64)
            red, green, blue = mean[0], mean[1], mean[2]
            a, b, c = mean[3] - red * red + epsilon, mean[4] - red * green, mean[5] - red * blue
            d, e, f = mean[6] - green * green + epsilon, mean[7] - green * blue, mean[8] - blue * blue + epsilon
            aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
            bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
            scale = 1 / (a * aa + b * ab + c * ac)
            for n in range(count):
                value = mean[9 + 4 * n]
                u, v, w = (
                    mean[10 + 4 * n] - value * red,
                    mean[11 + 4 * n] - value * green,
                    mean[12 + 4 * n] - value * blue,
                )
                p, q, r = (
                    (aa * u + ab * v + ac * w) * scale,
                    (ab * u + bb * v + bc * w) * scale,
                    (ac * u + bc * v + cc * w) * scale,
                )
                models[y, x, n, 0], models[y, x, n, 1], models[y, x, n, 2] = p, q, r
                models[y, x, n, 3] = value - p * red - q * green - r * blue


@compiled
def _apply_models(models: Any, guide: Any, where: Any) -> Any:
    """Return what `models` (h, w, 1, 4) give for the guide at pixels in `where`, clipped to [0, 1]; 0 elsewhere."""
    height, width = where.shape
    result = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            if where[y, x]:
                value = models[y, x, 0, 3]
                for i in range(3):
                    value += models[y, x, 0, i] * guide[y, x, i]
                result[y, x] = min(max(value, np.float32(0)), np.float32(1))
    return result


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
