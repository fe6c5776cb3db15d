"""What the exemplar method compares: color and texture, from coarse to fine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.exemplar.patches import RADIUS, SIDE
from app.imaging.holes import Mask
from app.imaging.picture import Floats

THIN = 6.0
"""At the coarsest level no pixel to fill is farther than this from the others, in its pixels."""
SMALL = 32
"""No side of a level is below this, unless the picture's is."""
MIN_SOURCES = 64
"""Source patches that every level must have."""
FRINGE = 2
"""Pixels around a mask that are no source: a mask rarely covers the last faint pixels of an object."""
TEXTURE = 6.0
"""Weight of the mean gradient beside the colors."""
SAMPLE = 65536
"""Pixels of which the range of a picture is measured, at least, unless it has fewer."""
GAIN = 16.0
"""Limit of the contrast that is added to dark pictures for the comparison."""


@dataclass(frozen=True, slots=True)
class Level:
    """A picture at one size: `image` float32 (height, width, 4), from 0 to 255.

    Nothing is known of `unknown`, bool (height, width). `hole` are those of them that are to be filled. `source` are
    the centers of patches that may be copied.
    """

    image: Floats
    unknown: Mask
    hole: Mask
    source: Mask


def find_sources(unknown: Mask, fringe: int = FRINGE) -> Mask:
    """Return the centers of patches within the picture without an `unknown` pixel, or one `fringe` pixels beside."""
    kernel = np.ones((SIDE + 2 * fringe, SIDE + 2 * fringe), np.uint8)
    source: Mask = cv2.dilate(unknown.view(np.uint8), kernel) == 0
    source[:RADIUS] = source[-RADIUS:] = source[:, :RADIUS] = source[:, -RADIUS:] = False
    return source


def make_levels(planes: NDArray[Any], unknown: Mask, hole: Mask, *, has_alpha: bool) -> list[Level]:
    """Return the levels of a picture, uint8 or uint16 (height, width, planes), the coarsest first.

    Each has half the size of the next. A pixel is the mean of its known ones; it is unknown where less than half of it
    is known.
    """
    levels = [Level(make_features(planes, unknown, has_alpha=has_alpha), unknown, hole, find_sources(unknown))]
    while min(levels[-1].hole.shape) >= 2 * SMALL and _thickness(levels[-1].hole) >= THIN:
        coarser = _halve(levels[-1], FRINGE >> len(levels))
        if np.count_nonzero(coarser.source) < MIN_SOURCES or not coarser.hole.any():
            break
        levels.append(coarser)
    return levels[::-1]


def make_features(planes: NDArray[Any], unknown: Mask, *, has_alpha: bool) -> Floats:
    """Return what patches of `planes` are compared by: float32 (height, width, 4), from 0 to 255.

    Lightness and color of CIELAB, where the picture has color; and alpha, or, without it, the mean gradient around a
    pixel, which tells a calm area from a textured one of the same color at a small size (Newson et al. 2014). The range
    of the known pixels is stretched. Values of unknown pixels mean nothing.
    """
    white = float(np.iinfo(planes.dtype).max)
    colors = planes[..., : planes.shape[-1] - has_alpha]
    # A sample is enough, and to index all pixels would hold the interpreter's lock for long.
    step = max(1, math.isqrt(unknown.size // SAMPLE))
    known = colors[::step, ::step][~unknown[::step, ::step]]
    low, high = np.percentile(known if known.size else colors, (0.5, 99.5))
    gain = min(255 / max(high - low, 1e-6), GAIN * 255 / white)
    scaled = np.clip((colors.astype(np.float32) - np.float32(low)) * np.float32(gain), 0, 255)
    result = np.zeros((*unknown.shape, 4), np.float32)
    if colors.shape[-1] == 1:
        result[..., 0] = scaled[..., 0]
    else:
        result[..., :3] = cv2.cvtColor(scaled / 255, cv2.COLOR_RGB2LAB) * np.array([2.55, 1, 1], np.float32)
        result[..., 1:3] += 128
    result[..., 3] = planes[..., -1] * (255 / white) if has_alpha else _measure_texture(result[..., 0], unknown)
    return result


def _measure_texture(gray: Floats, unknown: Mask) -> Floats:
    gradient = np.zeros_like(gray)
    gradient[:, 1:] += np.where(unknown[:, 1:] | unknown[:, :-1], 0, np.abs(np.diff(gray, axis=1)))
    gradient[1:] += np.where(unknown[1:] | unknown[:-1], 0, np.abs(np.diff(gray, axis=0)))
    total, count = (cv2.boxFilter(part, -1, (9, 9), normalize=False) for part in (gradient, (~unknown).astype("f4")))
    return np.asarray(np.minimum(TEXTURE * total / np.maximum(count, 1), 255), np.float32)


def _halve(level: Level, fringe: int) -> Level:
    height, width = level.hole.shape
    size = ((width + 1) // 2, (height + 1) // 2)
    known = (~level.unknown).astype(np.float32)
    share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(level.image * known[..., None], size, interpolation=cv2.INTER_AREA)
    image = np.asarray(total / np.maximum(share, 1e-6)[..., None], np.float32)
    unknown = np.asarray(share < 0.5)
    hole = unknown & (cv2.resize(level.hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0)
    return Level(image, unknown, hole, find_sources(unknown, fringe))


def _thickness(hole: Mask) -> float:
    """Return the largest distance, in pixels, of a pixel of `hole` to one of the picture outside it."""
    return float(cv2.distanceTransform(hole.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
