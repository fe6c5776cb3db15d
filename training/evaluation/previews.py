"""Preview grids: pictures side by side, because a metric that improves while the picture looks wrong is a bug."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def grid(rows: Sequence[Sequence[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Return float32 [0, 1] pictures (any sizes, 1 or 3 channels) as one uint8 RGB picture, white between them."""
    drawn = [[_eight_bit(picture) for picture in row] for row in rows]
    heights = [max(picture.shape[0] for picture in row) for row in drawn]
    columns = max(len(row) for row in drawn)
    widths = [max(row[i].shape[1] for row in drawn if i < len(row)) for i in range(columns)]
    canvas = np.full((sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (columns - 1), 3), 255, np.uint8)
    top = 0
    for row, height in zip(drawn, heights, strict=True):
        left = 0
        for picture, width in zip(row, widths, strict=False):
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += width + gap
        top += height + gap
    return canvas


def enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """Return `picture` (height, width, channels) with each pixel repeated `factor` times both ways."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def scatter(truth: Sequence[float], found: Sequence[float], highest: float, size: int = 400) -> np.ndarray:
    """Return a square plot of `found` (up) against `truth` (right), 0 to `highest`, with the diagonal, uint8 RGB."""
    plot = np.full((size, size, 3), 255, np.uint8)
    cv2.line(plot, (0, size - 1), (size - 1, 0), (180, 180, 180), 1)
    for x, y in zip(truth, found, strict=True):
        place = (int(x / highest * size), size - 1 - int(min(y, highest) / highest * size))
        cv2.circle(plot, place, 3, (200, 30, 30), -1)
    return plot


def _eight_bit(picture: np.ndarray) -> np.ndarray:
    pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)
