"""Holes to learn and to measure inpainting with: strokes, boxes and silhouettes, until a share of the picture is gone.

After the free-form masks of Yu et al. 2019 (arXiv 1806.03589); boxes for what is cut away, silhouettes for what
somebody wants removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

BINS = ((0.01, 0.10), (0.10, 0.20), (0.20, 0.40))
"""Shares of the picture that are missing, by which results are grouped."""


def holes(
    size: tuple[int, int],
    share: tuple[float, float],
    random: np.random.Generator,
    silhouettes: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Return bool (height, width), True where a picture of `size` is missing: a share of it within `share`.

    `silhouettes` are bool (h, w) of any size. What would be too much is drawn smaller.
    """
    least, most = share
    wanted = random.uniform(least, most)
    missing = np.zeros(size, np.uint8)
    scale = 1.0
    while missing.mean() < max(least, 0.9 * wanted):
        added = missing.copy()
        kind = random.integers(3 if len(silhouettes) else 2)
        if kind == 0:
            _stroke(added, random, scale)
        elif kind == 1:
            _box(added, random, scale)
        else:
            _silhouette(added, silhouettes[int(random.integers(len(silhouettes)))], random, scale)
        if added.mean() <= min(most, 1.1 * wanted):
            missing = added
        else:
            scale *= 0.8
    return missing.view(bool)


def scratches(size: tuple[int, int], count: int, random: np.random.Generator) -> np.ndarray:
    """Return bool (height, width): bent scratches of one to five pixels, as long as half the shorter side."""
    missing = np.zeros(size, np.uint8)
    for _ in range(count):
        _line(missing, random, int(random.integers(1, 6)), length=min(size) / 2)
    return missing.view(bool)


def _stroke(missing: np.ndarray, random: np.random.Generator, scale: float) -> None:
    side = min(missing.shape)
    _line(missing, random, max(1, round(side * scale * random.uniform(0.01, 0.09))), length=side * scale)


def _line(missing: np.ndarray, random: np.random.Generator, thickness: int, length: float) -> None:
    height, width = missing.shape
    point = random.uniform(0, (width, height))
    angle, steps = random.uniform(0, 2 * np.pi), int(random.integers(2, 7))
    points = [point]
    for _ in range(steps):
        angle += random.normal(0, 0.6)
        point = point + length / steps * np.array([np.cos(angle), np.sin(angle)])
        points.append(point)
    cv2.polylines(missing, [np.round(points).astype(np.int32)], False, 1, thickness)


def _box(missing: np.ndarray, random: np.random.Generator, scale: float) -> None:
    height, width = missing.shape
    tall, wide = (max(1, round(min(missing.shape) * scale * random.uniform(0.05, 0.45))) for _ in range(2))
    top, left = int(random.integers(-tall // 2, height)), int(random.integers(-wide // 2, width))
    missing[max(0, top) : max(0, top + tall), max(0, left) : max(0, left + wide)] = 1


def _silhouette(missing: np.ndarray, shape: np.ndarray, random: np.random.Generator, scale: float) -> None:
    height, width = missing.shape
    factor = min(missing.shape) / max(shape.shape) * scale * random.uniform(0.2, 0.8)
    size = [max(1, round(side * factor)) for side in reversed(shape.shape)]
    small = cv2.resize(shape.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    top, left = int(random.integers(-size[1] // 2, height)), int(random.integers(-size[0] // 2, width))
    rows, columns = slice(max(0, top), top + size[1]), slice(max(0, left), left + size[0])
    part = missing[rows, columns]
    part |= small[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]]
