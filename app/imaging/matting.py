"""Opacity of a foreground from its probability, refined at edges by the colors on both sides of them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging import guided_filter
from app.imaging.compilation import compiled
from app.imaging.picture import Floats

CERTAIN = 0.02
"""How near to opaque or transparent an opacity counts as that."""
PRIOR = np.float32(0.01)
"""How much the opacity before counts against colors: as much as a squared distance of colors, of at most 3."""


def compute_alpha(probability: Floats, threshold: float, softness: float = 0.3) -> Floats:
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


def mark_edges(alpha: NDArray[Any], reach: int) -> NDArray[Any]:
    """Return `alpha`, uint8 or uint16 (height, width), opaque or transparent but in bands along edges.

    A band has what was intermediate and what is within `reach` pixels of it or of an edge; nothing in it is certain.
    """
    white = int(np.iinfo(alpha.dtype).max)
    unsure = ((alpha > CERTAIN * white) & (alpha < (1 - CERTAIN) * white)).astype(np.uint8)
    inside = (alpha > white // 2).astype(np.uint8)
    outline = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band = cv2.dilate(cv2.max(unsure, outline), disc).view(np.bool_)
    least = max(1, round(CERTAIN * white))
    return np.where(band, np.clip(alpha, least, white - least), inside.astype(alpha.dtype) * white)


def refine_opacity(image: Floats, opacity: Floats, front: Floats, back: Floats, radius: int) -> Floats:
    """Return a better opacity (h, w) where it is intermediate, float32 in [0, 1].

    Each pixel's color is placed between those of `front` and `back` (h, w, c), where these differ; where they do not,
    `opacity` counts. A guided filter of `radius` then takes the noise of that out: opacity is linear in color nearby
    (Levin et al. 2008, A Closed-Form Solution to Natural Image Matting).
    """
    unsure = (opacity > 0) & (opacity < 1)
    placed = opacity.copy()
    _place_between(image, front, back, unsure, placed)
    smooth = guided_filter.smooth(placed, image, unsure, radius=radius, epsilon=1e-4)
    # What is within CERTAIN of opaque or transparent is that: colors would be lifted by noise.
    stretched = (np.where(unsure, smooth, opacity) - CERTAIN) / (1 - 2 * CERTAIN)
    return np.asarray(np.clip(stretched, 0, 1), np.float32)


@compiled
def _place_between(image: Any, front: Any, back: Any, unsure: Any, opacity: Any) -> None:
    """Set `opacity` (h, w), in place where it is `unsure`, by where the color is between `front` and `back`."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            if unsure[y, x]:
                along, length = PRIOR * opacity[y, x], PRIOR
                for c in range(channels):
                    apart = front[y, x, c] - back[y, x, c]
                    along += apart * (image[y, x, c] - back[y, x, c])
                    length += apart * apart
                opacity[y, x] = min(max(along / length, np.float32(0)), np.float32(1))


def shrink_alpha(alpha: NDArray[Any], pixels: int) -> NDArray[Any]:
    """Return `alpha` (height, width) with its edge moved inwards by `pixels`; the picture's own border is no edge."""
    if not pixels:
        return alpha
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    white = int(np.iinfo(alpha.dtype).max)
    return np.asarray(cv2.erode(alpha, disc, borderType=cv2.BORDER_CONSTANT, borderValue=white), alpha.dtype)
