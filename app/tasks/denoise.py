"""Noise, grain and JPEG artefacts out of a photograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Arrays, Engine, RequestContext
from app.errors import InvalidField, ModelUnavailable
from app.imaging.picture import Picture
from app.imaging.tiles import Plan
from app.tasks.answer import Answer
from app.tasks.tiled import Stopwatch, plan_for, sample, signature_of, through
from models.manifest import Manifest

_ESTIMATE_TILES = 8


@dataclass(frozen=True, slots=True)
class DenoiseWish:
    """`strength` is a noise level as a fraction of 75/255, None to estimate it; `preserve` blends the original back.

    Both are in [0, 1].
    """

    model: str | None = None
    strength: float | None = None
    preserve: float = 0.0


async def denoise(picture: Picture, wish: DenoiseWish, engine: Engine, context: RequestContext) -> Answer:
    """Return the picture without its noise: same size, channels, depth and alpha.

    Raises InvalidField, UnknownModel, ModelUnavailable, WrongSize (a model of fixed size) and what the engine raises.
    """
    watch = Stopwatch(context)
    manifest = check(wish, engine)
    signature = signature_of(manifest, "denoise")
    plan = await plan_for(picture, manifest, "denoise")
    applied: dict[str, str] = {}
    constants: Arrays = {}
    if "level" in signature.inputs:
        level = wish.strength
        if level is None:
            level = await _estimate(picture, plan, manifest, engine, context)
        constants["level"] = np.full((1, 1, 1, 1), level, np.float32)
        applied["strength"] = f"{level:.3f}"
    share = np.float32(wish.preserve)

    def blend(window: NDArray[np.float32], result: NDArray[np.float32]) -> NDArray[np.float32]:
        # Clipped first, so that the blend is of two pictures and not of what the network overshoots.
        return np.clip(result, 0, 1) * (1 - share) + window * share

    finish = blend if wish.preserve else None
    pixels = await through(picture, plan, manifest, "denoise", engine, context, constants=constants, finish=finish)
    applied |= {"tiles": str(len(plan.tiles)), "precision": signature.precision}
    return Answer(picture.with_pixels(pixels, picture.alpha), manifest.id, applied, watch.seconds())


def check(wish: DenoiseWish, engine: Engine) -> Manifest:
    """Return the model. Raises InvalidField, UnknownModel, ModelUnavailable."""
    for name, value in (("strength", wish.strength), ("preserve", wish.preserve)):
        if value is not None and not 0 <= value <= 1:
            raise InvalidField(f"{name} is {value:g}; it must lie between 0 and 1.", field=name, value=value)
    manifest = engine.find("denoise", wish.model)
    takes_level = "level" in signature_of(manifest, "denoise").inputs
    if wish.strength is not None and not takes_level:
        text = f"The model {manifest.id} knows no strength: leave the field out, or set it to auto."
        raise InvalidField(text, field="strength", value=wish.strength)
    if wish.strength is None and takes_level and "estimate" not in manifest.signatures:
        text = f"The model {manifest.id} cannot estimate the noise: give strength a number from 0 to 1."
        raise InvalidField(text, field="strength", value="auto")
    return manifest


async def _estimate(picture: Picture, plan: Plan, manifest: Manifest, engine: Engine, context: RequestContext) -> float:
    """Return the noise level of the picture: the median of what the model estimates in tiles spread over it.

    The median, because texture makes single tiles look noisier than they are and clipped sky makes them look clean.
    """
    outputs = await sample(picture, plan, manifest, "estimate", engine, context, tiles=_ESTIMATE_TILES)
    levels = np.array([float(output["level"].mean()) for output in outputs])
    low, high = manifest.signatures["denoise"].inputs["level"].range or (0.0, 1.0)
    level = float(np.median(levels))
    if not math.isfinite(level):
        raise ModelUnavailable(f"The model {manifest.id} gave values that are no numbers.", value=manifest.id)
    return min(max(level, low), high)
