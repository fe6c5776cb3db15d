"""The noise of a picture, as a model that has the signature `estimate` sees it: for /denoise, and to choose a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.engine.protocol import Arrays, Engine, RequestContext
from app.errors import ModelUnavailable
from app.imaging.picture import Picture
from app.tasks.concurrency import bounded_gather
from app.tasks.tiling import SAMPLED_TILES, plan_for, sample
from models.manifest import Manifest

LEVEL_UNIT = 75 / 255
"""The standard deviation of the noise at level 1, for pixels in [0, 1]."""
_WHITE = 0.2
"""The correlation below which noise is certain to be noise: texture is not white."""
_FEWEST_TILES = 3
"""The fewest tiles that are looked at, in pictures that have as many."""


class Noise(NamedTuple):
    """What a picture's noise was found to be."""

    level: float
    correlation: float
    """How alike that of neighboring pixels is: 0 for white noise."""
    certain: bool
    """Whether it is white at half size, so that it is no texture."""


async def estimate_noise(picture: Picture, manifest: Manifest, engine: Engine, context: RequestContext) -> Noise:
    """Return the noise of the picture: the medians of the model's estimates for tiles spread over it.

    Half of the tiles, from three to eight: all six of a picture of one megapixel would cost a fifth of denoising it.
    Estimates for single tiles may be wrong: too high for texture, too low for clipped sky. The tiles have the size of
    the manifest, so that the noise is the same with any `tile_mebibytes`. Raises ModelUnavailable, WrongSize and errors
    of the engine.
    """
    plan = await plan_for(picture, manifest, "estimate")
    tiles = min(SAMPLED_TILES, max(_FEWEST_TILES, math.ceil(len(plan.tiles) / 2)))
    found: dict[bool, list[Arrays]] = {}

    async def look(reduced: bool) -> None:
        found[reduced] = await sample(
            picture, plan, manifest, "estimate", engine, context, tiles=tiles, reduced=reduced
        )

    correlates = "correlation" in manifest.signatures["estimate"].outputs
    await bounded_gather([False, True] if correlates else [False], look)
    outputs = found[False]
    level, correlation, certain = _median(outputs, "level"), _median(outputs, "correlation"), False
    if correlates:
        halves = found[True]
        # A mean of 2x2 pixels has no more noise than they have, and grain is whiter there.
        if _median(halves, "correlation") < _WHITE and _median(halves, "level") > level:
            level, certain = _median(halves, "level"), True
    if not math.isfinite(level + correlation):
        raise ModelUnavailable(f"The model {manifest.id} returned NaN or infinity.", value=manifest.id)
    return Noise(level, correlation, certain)


def _median(outputs: Sequence[Arrays], key: str) -> float:
    """Return the median of an output of tiles; 0 where they do not have it."""
    return float(np.median([float(output[key].mean()) for output in outputs])) if key in outputs[0] else 0.0
