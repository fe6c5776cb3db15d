"""Whether a small picture was reduced without a filter, as a model that has the signature `aliasing` sees it."""

from __future__ import annotations

import math

import numpy as np

from app.engine.protocol import Engine, RequestContext
from app.errors import ModelUnavailable
from app.imaging.picture import Picture
from app.tasks.tiling import plan_for, sample
from models.manifest import Manifest

_CERTAIN = 30.0  # beyond, the share is 0 or 1 in float32, and an exponential may overflow


async def estimate_unfiltered_share(
    picture: Picture, manifest: Manifest, enlarger: str, engine: Engine, context: RequestContext
) -> float:
    """Return how much the exit for pictures that were reduced without a filter counts in the signature `enlarger`, from
    0 to 1.

    The evidence, a logit, is the output of that name. It is averaged over tiles spread over the picture, because single
    ones may show sky or fine texture. The tiles have the size of the manifest, so that the share is the same with any
    `tile_mebibytes`. Raises ModelUnavailable, WrongSize and errors of the engine.
    """
    plan = await plan_for(picture, manifest, "aliasing")
    outputs = await sample(picture, plan, manifest, "aliasing", engine, context)
    evidence = float(np.mean([output[enlarger].mean() for output in outputs]))
    if not math.isfinite(evidence):
        raise ModelUnavailable(f"The model {manifest.id} returned NaN or infinity.", value=manifest.id)
    return 1 / (1 + math.exp(-np.clip(evidence, -_CERTAIN, _CERTAIN)))
