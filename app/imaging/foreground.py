"""Colors of foreground and background where a picture mixes both, by multi-level least squares.

Germer et al. 2020, Fast Multi-Level Foreground Estimation (arXiv 2006.14970): each pixel's two colors explain its own
color and are like those of its neighbors, more so where the opacity changes. Solved by Gauss-Seidel sweeps from coarse
to fine, where colors spread far. Levels of at most COARSE_PIXELS are solved for the whole picture, the finer ones in
windows, so that memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.compilation import compiled
from app.imaging.picture import Floats

COARSE_PIXELS = 2**20
SMALL, SMALL_SWEEPS, SWEEPS = 32, 10, 2
"""Levels of at most SMALL pixels a side get SMALL_SWEEPS, the others SWEEPS."""
REGULARIZATION = np.float32(1e-5)
WINDOW, MARGIN = 768, 16
"""Sides of windows, and what is added around them, in pixels of the coarse level."""
Refine = Callable[[Floats, Floats, Floats, Floats], Floats]


@compiled
def _sweep(image: Any, alpha: Any, mixed: Any, front: Any, back: Any, count: Any, smooth: Any) -> None:
    """Improve the colors `front` and `back`, float32 (h, w, c) in place, `count` times, where `mixed` (h, w)."""
    height, width, channels = image.shape
    for sweep in range(count):
        for row in range(height):
            y = row if sweep % 2 == 0 else height - 1 - row
            for column in range(width):
                x = column if sweep % 2 == 0 else width - 1 - column
                if not mixed[y, x]:
                    continue
                a0 = alpha[y, x]
                a1 = np.float32(1) - a0
                up, down = max(y - 1, 0), min(y + 1, height - 1)
                left, right = max(x - 1, 0), min(x + 1, width - 1)
                wu = smooth + abs(a0 - alpha[up, x])
                wd = smooth + abs(a0 - alpha[down, x])
                wl = smooth + abs(a0 - alpha[y, left])
                wr = smooth + abs(a0 - alpha[y, right])
                total = wu + wd + wl + wr
                m00, m01, m11 = a0 * a0 + total, a0 * a1, a1 * a1 + total
                scale = np.float32(1) / (m00 * m11 - m01 * m01)
                for c in range(channels):
                    value = image[y, x, c]
                    f = a0 * value + wu * front[up, x, c] + wd * front[down, x, c]
                    f += wl * front[y, left, c] + wr * front[y, right, c]
                    b = a1 * value + wu * back[up, x, c] + wd * back[down, x, c]
                    b += wl * back[y, left, c] + wr * back[y, right, c]
                    front[y, x, c] = min(max(scale * (m11 * f - m01 * b), np.float32(0)), np.float32(1))
                    back[y, x, c] = min(max(scale * (m00 * b - m01 * f), np.float32(0)), np.float32(1))


@compiled
def _take_certain(image: Any, alpha: Any, front: Any, back: Any) -> None:
    """Set `front` where `alpha` is opaque, and `back` where it is transparent, to the colors of `image`, in place."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            if alpha[y, x] >= 1:
                for c in range(channels):
                    front[y, x, c] = image[y, x, c]
            elif alpha[y, x] <= 0:
                for c in range(channels):
                    back[y, x, c] = image[y, x, c]


class EdgeColors:
    """The colors of both sides of the edges in `pixels` (height, width, c), whose opacity is `alpha` (height, width).

    Both are uint8 or uint16, of the same type. An edge is where the opacity is intermediate.
    """

    def __init__(self, pixels: NDArray[Any], alpha: NDArray[Any]) -> None:
        self.pixels, self.alpha = pixels, alpha
        height, width = alpha.shape
        self.levels = max(0, math.ceil(math.log2(height * width / COARSE_PIXELS) / 2))
        """How many finer levels there are, each twice as large as the one before."""
        size = self._size(self.levels)
        self.front, self.back = _solve(_resize(pixels, size), _resize(alpha, size))

    def _size(self, level: int) -> tuple[int, int]:
        return -(-self.alpha.shape[0] >> level), -(-self.alpha.shape[1] >> level)

    def windows(self) -> Iterator[tuple[slice, slice]]:
        """Yield the windows of the picture that have edges; a small picture is one window."""
        white = np.iinfo(self.alpha.dtype).max
        height, width = self.alpha.shape
        step = WINDOW if self.levels else max(height, width)
        for top in range(0, height, step):
            for left in range(0, width, step):
                window = slice(top, min(top + step, height)), slice(left, min(left + step, width))
                part = self.alpha[window]
                if ((part > 0) & (part < white)).any():
                    yield window

    def estimate(self, window: tuple[slice, slice], refine: Refine | None = None) -> tuple[Floats, Floats]:
        """Return opacity (h, w) and foreground colors (h, w, c) of `window`, float32 in [0, 1].

        With `refine`, the opacity is that of `refine(image, opacity, front, back)`, and colors are those for it.
        """
        around, inner = self._surround(window)
        unit = 1 << self.levels
        coarse = tuple(slice(part.start // unit, -(-part.stop // unit)) for part in around)
        front, back = self.front[coarse], self.back[coarse]
        pixels, alpha = self.pixels[around], self.alpha[around]
        for level in range(self.levels - 1, 0, -1):
            size = (-(-alpha.shape[0] >> level), -(-alpha.shape[1] >> level))
            enlarged = _enlarge(front, size), _enlarge(back, size)
            front, back = _improve(_resize(pixels, size), _resize(alpha, size), *enlarged)
        image, opacity = _resize(pixels, alpha.shape), _resize(alpha, alpha.shape)
        front, back = _improve(image, opacity, _enlarge(front, alpha.shape), _enlarge(back, alpha.shape))
        if refine is not None:
            opacity = refine(image, opacity, front, back)
            front, back = _improve(image, opacity, front, back)
        return opacity[inner], front[inner]

    def _surround(self, window: tuple[slice, slice]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return the window with a margin, in whole pixels of the coarse level, and where in it the window is."""
        unit = 1 << self.levels
        around, inner = [], []
        for part, size in zip(window, self.alpha.shape, strict=True):
            begin = max(0, part.start - MARGIN * unit) // unit * unit
            end = min(size, -(-(part.stop + MARGIN * unit) // unit) * unit)
            around.append(slice(begin, end))
            inner.append(slice(part.start - begin, part.stop - begin))
        return tuple(around), tuple(inner)


def _solve(image: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """Return both colors from the coarsest level, of one pixel, to that of `image`."""
    levels = [(image, alpha)]
    while max(levels[-1][1].shape) > 1:
        size = tuple(max(1, side // 2) for side in levels[-1][1].shape)
        levels.append((_reduce(levels[-1][0], size), _reduce(levels[-1][1], size)))
    front = back = levels[-1][0]
    for finer, opacity in reversed(levels):
        front, back = _improve(finer, opacity, _enlarge(front, opacity.shape), _enlarge(back, opacity.shape))
    return front, back


def _improve(image: Floats, alpha: Floats, front: Floats, back: Floats) -> tuple[Floats, Floats]:
    """Improve the colors `front` and `back` in place, and return them."""
    _take_certain(image, alpha, front, back)
    mixed = ((alpha > 0) & (alpha < 1)).astype(np.uint8)
    mixed = cv2.dilate(mixed, np.ones((5, 5), np.uint8)).view(np.bool_)
    count = SMALL_SWEEPS if max(alpha.shape) <= SMALL else SWEEPS
    _sweep(image, alpha, mixed, front, back, count, REGULARIZATION)
    return front, back


def _resize(values: NDArray[Any], size: tuple[int, ...]) -> Floats:
    """Return `values`, (h, w) or (h, w, c), averaged to `size`, as float32 in [0, 1]."""
    white = np.float32(np.iinfo(values.dtype).max)
    reduced = (
        values if values.shape[:2] == tuple(size) else cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA)
    )
    return np.ascontiguousarray((reduced.astype(np.float32) / white).reshape(*size, *values.shape[2:]))


def _reduce(values: Floats, size: tuple[int, int]) -> Floats:
    reduced = cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, np.float32).reshape(*size, *values.shape[2:])


def _enlarge(values: Floats, size: tuple[int, ...]) -> Floats:
    resized = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32).reshape(*size, values.shape[-1])
