"""Remove noise, grain and JPEG artifacts from a photo."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from app.engine.protocol import Arrays, Engine, RequestContext
from app.errors import InvalidField
from app.imaging.limiter import limit_correction
from app.imaging.picture import Picture
from app.tasks.base import Sizes, Task, TaskOptions, TaskResult
from app.tasks.noise import LEVEL_UNIT, estimate_noise
from app.tasks.tiling import Stopwatch, plan_for, require_signature, run_tiled
from models.manifest import Manifest

_CORRELATED, _CORRELATED_IF_FAINT = 0.1, 0.2
"""The correlation from which on a model's second signature is used, if it has one. For faint noise it is less exact."""
_STRONG = 8 / 75
"""The level below which noise is faint."""
_EXCESS, _LARGEST_EXCESS = 2.7, 1.95
"""For correlated noise, the level that is told is the estimate times 1 + the first times the correlation, at most times
the second: what is left of blobs is seen more than what is lost with them."""


class DenoiseOptions(TaskOptions):
    strength: Literal["auto"] | Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        "auto",
        description="Noise level: `auto` estimates it from the picture; a number from 0 to 1 sets it, where 1 is a "
        "standard deviation of 75/255 and 0 leaves the pixels as they are. `X-Applied` has the level that was used.",
        examples=["auto"],
    )
    preserve: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the original picture to blend into the result, to keep some grain: 0 none, 1 all.",
        examples=[0.0],
    )

    @property
    def uses_device(self) -> bool:
        """Whether the model runs: strength 0 leaves the pixels as they are, and a network changes each a little."""
        return self.strength != 0


async def denoise(picture: Picture, options: DenoiseOptions, engine: Engine, context: RequestContext) -> TaskResult:
    """Return the picture without noise: same size, channels, depth and alpha.

    Raises InvalidField, UnknownModel, ModelUnavailable, WrongSize (a model of fixed size) and errors of the engine.
    """
    watch = Stopwatch(context)
    manifest = find_model(options, engine)
    if not options.uses_device:
        return TaskResult(picture, manifest.id, {"strength": "0.000"}, watch.seconds())
    takes_level = "level" in require_signature(manifest, "denoise").inputs
    plan = await plan_for(picture, manifest, "denoise", engine.tile_mebibytes)
    name, level, doubtful = "denoise", None, None
    constants: Arrays = {}
    decisions: dict[str, str] = {}
    if takes_level:
        level, name, doubtful = await _choose_removal(picture, manifest, options, engine, context)
        constants["level"] = np.full((1, 1, 1, 1), level, np.float32)
        decisions["strength"] = f"{level:.3f}"

    def finish(window: NDArray[np.float32], result: NDArray[np.float32]) -> NDArray[np.float32]:
        if level is not None:
            result = limit_correction(window[0], result[0], level * LEVEL_UNIT, doubtful)[None]
        if not options.preserve:
            return result
        # Clipped first: the network may return values outside [0, 1].
        share = np.float32(options.preserve)
        return np.clip(result, 0, 1) * (1 - share) + window * share

    pixels = await run_tiled(picture, plan, manifest, name, engine, context, constants=constants, finish=finish)
    decisions |= {"tiles": str(len(plan.tiles)), "precision": context.usage.precision(name)}
    return TaskResult(picture.with_pixels(pixels, picture.alpha), manifest.id, decisions, watch.seconds())


def find_model(options: DenoiseOptions, engine: Engine) -> Manifest:
    """Return the model. Raises InvalidField if it does not support the strength, UnknownModel, ModelUnavailable."""
    manifest = engine.find("denoise", options.model_name)
    takes_level = "level" in require_signature(manifest, "denoise").inputs
    if options.strength != "auto" and not takes_level:
        text = f"The model {manifest.id} has no strength setting. Remove `strength`, or set it to auto."
        raise InvalidField(text, field="strength", value=options.strength)
    if options.strength == "auto" and takes_level and "estimate" not in manifest.signatures:
        text = f"The model {manifest.id} cannot estimate the noise. Set `strength` to a number from 0 to 1."
        raise InvalidField(text, field="strength", value="auto")
    return manifest


class _Removal(NamedTuple):
    """The level of a picture's noise, and the signature that removes noise of its kind."""

    level: float
    signature: str
    doubtful: float | None
    """The standard deviation of what was found, for pixels in [0, 1], where it may be texture."""


async def _choose_removal(
    picture: Picture, manifest: Manifest, options: DenoiseOptions, engine: Engine, context: RequestContext
) -> _Removal:
    """Return what to remove: as strong as the options say, or the picture's noise.

    A model may have a second signature for noise that is alike in neighboring pixels, as cameras and encoders leave it,
    or in the three channels of a gray picture.
    """
    chooses = "denoise_correlated" in manifest.signatures and "estimate" in manifest.signatures
    if options.strength != "auto" and not chooses:
        return _Removal(options.strength, "denoise", None)
    noise = await estimate_noise(picture, manifest, engine, context)
    low, high = manifest.signatures["denoise"].inputs["level"].range or (0.0, 1.0)
    least = _CORRELATED if noise.level >= _STRONG else _CORRELATED_IF_FAINT
    correlated = chooses and noise.correlation >= least
    second = correlated or (chooses and await asyncio.to_thread(_is_gray, picture))
    name = "denoise_correlated" if second else "denoise"
    if options.strength != "auto":
        return _Removal(options.strength, name, None)
    excess = min(1 + _EXCESS * noise.correlation, _LARGEST_EXCESS) if correlated else 1.0
    doubtful = None if noise.certain else max(noise.level, 0.0) * LEVEL_UNIT
    return _Removal(min(max(noise.level * excess, low), high), name, doubtful)


def _is_gray(picture: Picture) -> bool:
    pixels = picture.pixels
    return all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, pixels.shape[-1]))


def _check(options: DenoiseOptions, sizes: Sizes, engine: Engine) -> None:  # noqa: ARG001
    find_model(options, engine)


def _probe(manifest: Manifest, picture: Picture) -> tuple[DenoiseOptions, dict[str, Picture]]:  # noqa: ARG001
    return DenoiseOptions(model=manifest.versioned_name), {}


TASK = Task(
    name="denoise",
    summary="Remove noise from a picture",
    description="Denoises a photo or scan: removes sensor noise, film grain and JPEG artifacts. Useful for photos "
    "taken in low light and for old photos.",
    options=DenoiseOptions,
    run=denoise,
    check=_check,
    probe=_probe,
)
