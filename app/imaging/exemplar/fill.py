"""Fills the hole of a picture by the exemplar method, from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.exemplar.compose import compose
from app.imaging.exemplar.field import Field
from app.imaging.exemplar.levels import MIN_SOURCES, Level, find_sources, make_features, make_levels
from app.imaging.holes import Mask
from app.imaging.picture import Floats

ROUNDS = (12, 8, 5, 3, 2)
"""Rounds of search and vote at the coarsest level, the next one, and so on; the last number holds for all others."""
FIRST_SWEEPS, SWEEPS = 4, 3
REACH, LAST_REACH = 16, 8
"""Pixels within which better sources are looked for, at the levels between the coarsest and the last, and at it."""
SCARCE = 16
"""There must be one source patch for so many pixels of the hole at least."""


def has_sources(unknown: Mask, hole: Mask) -> bool:
    """Tell whether enough is known around a hole, bool (height, width), to fill it from; `unknown` contains it."""
    sources, wanted = int(np.count_nonzero(find_sources(unknown))), int(np.count_nonzero(hole)) // SCARCE
    return sources >= max(MIN_SOURCES, wanted)


def fill(
    planes: NDArray[Any],
    unknown: Mask,
    hole: Mask | None = None,
    guide: Floats | None = None,
    *,
    has_alpha: bool = False,
    check: Callable[[], object] = lambda: None,
) -> NDArray[Any]:
    """Return `planes` with the pixels of `hole` filled; all others are unchanged.

    `planes` is uint8 or uint16 (height, width, planes): gray or RGB, and with `has_alpha` a plane of alpha. Nothing is
    known of the pixels `unknown`, bool (height, width); `hole`, by default all of them, is the part to fill, and
    `has_sources` must be true of it. `guide` is a first filling, float32 in [0, 1], of any size with the planes of the
    picture: it decides where edges and areas go on. The result depends on nothing but these.

    `check` is called between levels and may raise an error to end the work.
    """
    unknown = np.ascontiguousarray(unknown)  # loops are compiled for one layout
    hole = unknown if hole is None else np.ascontiguousarray(hole)
    if not hole.any():
        return planes
    levels = make_levels(planes, unknown, hole, has_alpha=has_alpha)
    field = Field(levels[0], 0)
    field.start_from_guide(_make_guide(levels[0], planes, unknown, guide, has_alpha=has_alpha))
    for depth, level in enumerate(levels):
        if depth:
            coarser, field = field, Field(level, depth)
            field.start_from_coarser(coarser)
        _refine(field, depth, len(levels), max(hole.shape), check)
    return compose(planes, unknown, hole, *field.offsets())


def _refine(field: Field, depth: int, levels: int, side: int, check: Callable[[], object]) -> None:
    """Search and vote in turn. The coarsest level is searched as a whole, and means keep its estimate calm."""
    reach = side if depth == 0 else LAST_REACH if depth == levels - 1 else REACH
    for number in range(ROUNDS[min(depth, len(ROUNDS) - 1)]):
        check()
        field.search(SWEEPS if number else FIRST_SWEEPS, reach, 64 * depth + number)
        field.copy() if depth else field.vote()


def _make_guide(level: Level, planes: NDArray[Any], unknown: Mask, guide: Floats | None, *, has_alpha: bool) -> Floats:
    """Return a first estimate of the hole at the coarsest level, float32 (height, width, 4)."""
    features = np.rint(np.clip(level.image, 0, 255)).astype(np.uint8)
    smooth = [cv2.inpaint(features[..., k].copy(), level.unknown.view(np.uint8), 3, cv2.INPAINT_NS) for k in range(4)]
    result = np.stack(smooth, axis=-1).astype(np.float32)
    if guide is not None:
        white, size = np.iinfo(planes.dtype).max, planes.shape[1::-1]
        shown = cv2.resize(guide, size, interpolation=cv2.INTER_LINEAR).reshape(planes.shape)
        seen = np.where(unknown[..., None], np.rint(np.clip(shown, 0, 1) * white), planes).astype(planes.dtype)
        # The texture is left as it is: a first filling is a blur, and would draw calm sources.
        count = 4 if has_alpha else 3
        seen_features = make_features(seen, np.zeros_like(unknown), has_alpha=has_alpha)
        small = cv2.resize(seen_features, level.hole.shape[::-1], interpolation=cv2.INTER_AREA)
        result[..., :count] = small[..., :count]
    return result
