"""Enlarge (upscale) a picture two, three or four times."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from app.engine.protocol import Arrays, Engine, RequestContext
from app.errors import ConflictingFields, InvalidField
from app.imaging.picture import Picture
from app.tasks.aliasing import estimate_unfiltered_share
from app.tasks.base import Sizes, Task, TaskOptions, TaskResult
from app.tasks.tiling import Stopwatch, plan_for, run_tiled
from app.tasks.upscaler_choice import find_cleaning, needs_cleaning
from models.manifest import Manifest

AUTO = "auto"
CLEANS = "denoise"
"""The default in the manifest of a model that cleans while it enlarges."""
SHARE = "share"
"""The input of models with two exits: how much the one for pictures that were reduced without a filter counts."""
_STRIP = 256  # rows


def _number(value: object) -> object:
    """Convert the text of a form to int, which pydantic does not do for a Literal of numbers."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else value


class SuperresOptions(TaskOptions):
    scale: Annotated[Literal[2, 3, 4], BeforeValidator(_number)] = Field(
        2, description="Scale factor: how many times wider and higher the result is.", examples=[2]
    )

    model: str = Field(
        "auto",
        max_length=140,
        description="Model to use, as `name` or `name@version`; `GET /models` lists them. `auto` looks at the picture: "
        "`real`, which cleans while it enlarges, if there is noise or JPEG artifacts, else the default (`photo`). "
        "`X-Model` has the model that was used.",
        examples=["auto"],
    )
    denoise: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the noise and grain the model `real` removes: 1 all, 0 none. Others remove none.",
        examples=[1.0],
    )

    @property
    def model_name(self) -> str | None:
        return None if super().model_name == AUTO else super().model_name

    @property
    def scale_factor(self) -> int:
        return self.scale


async def superres(picture: Picture, options: SuperresOptions, engine: Engine, context: RequestContext) -> TaskResult:
    """Return the picture enlarged: width × scale and height × scale, same channels and depth.

    Alpha is enlarged bicubically. Raises InvalidField if the model does not support the scale, ConflictingFields if it
    cannot clean and should, UnknownModel, ModelUnavailable, WrongSize and errors of the engine.
    """
    watch = Stopwatch(context)
    manifest, signature = find_model(options, engine)
    if options.model_name is None and (cleaning := find_cleaning(engine)) is not None:
        with suppress(InvalidField):  # it may have fewer scales
            found = cleaning, _signature(cleaning, options.scale)
            if await needs_cleaning(picture, engine, context):
                manifest, signature = found
    plan = await plan_for(picture, manifest, signature, engine.tile_mebibytes)
    alpha = None
    source = picture
    if picture.alpha is not None:
        reach = _reach(picture, manifest)
        filled = await asyncio.to_thread(_fill_hidden_colors, picture.pixels, picture.alpha, reach)
        source = picture.with_pixels(filled, picture.alpha)
        alpha = await asyncio.to_thread(_enlarge, picture.alpha, options.scale)

    constants: Arrays = {}
    decisions: dict[str, str] = {}
    if SHARE in manifest.signatures[signature].inputs:
        share = await estimate_unfiltered_share(source, manifest, signature, engine, context)
        constants[SHARE] = np.full((1, 1, 1, 1), share, np.float32)
        decisions["unfiltered"] = f"{share:.2f}"

    def keep_grain(window: NDArray[np.float32], result: NDArray[np.float32]) -> NDArray[np.float32]:
        return add_grain(window[0], np.clip(result[0], 0, 1), 1 - options.denoise)[None]

    finish = keep_grain if CLEANS in manifest.defaults and options.denoise < 1 else None
    enlarged = await run_tiled(source, plan, manifest, signature, engine, context, constants=constants, finish=finish)
    decisions |= {"tiles": str(len(plan.tiles)), "precision": context.usage.precision(signature)}
    return TaskResult(picture.with_pixels(enlarged, alpha), manifest.id, decisions, watch.seconds())


def find_model(options: SuperresOptions, engine: Engine) -> tuple[Manifest, str]:
    """Return the model and its signature for the scale, of `auto` the default model.

    Raises UnknownModel, ModelUnavailable, InvalidField, ConflictingFields.
    """
    manifest = engine.find("superres", options.model_name)
    if options.denoise < 1 and options.model_name is not None and CLEANS not in manifest.defaults:
        text = f"The model {manifest.id} does not remove noise. Remove `denoise`, or set `model` to real or auto."
        raise ConflictingFields(text, field="denoise", value=options.denoise)
    return manifest, _signature(manifest, options.scale)


def add_grain(small: NDArray[np.float32], large: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Return `large` with a `share` of what `small` has that it lacks, enlarged bicubically: noise, grain, artifacts.

    Both are (height, width, channels); with a share of 1, `large` reduced again is about `small`.
    """
    height, width, channels = small.shape
    reduced = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA).reshape(small.shape)
    missing = cv2.resize(small - reduced, large.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return large + np.float32(share) * missing.reshape(*large.shape[:2], channels)


def _signature(manifest: Manifest, scale: int) -> str:
    """Return the name of the signature with this scale. Raises InvalidField, which lists the scales of the model."""
    scales = manifest.scales
    if scale not in scales:
        supported = ", ".join(str(one) for one in sorted(scales))
        text = f"The model {manifest.id} does not support `scale` {scale}. Scales: {supported}."
        raise InvalidField(text, field="scale", value=scale, limit=sorted(scales))
    return scales[scale]


def _reach(picture: Picture, manifest: Manifest) -> int:
    """Return how far, in pixels, a hidden pixel may be from a visible one and still affect the result."""
    if manifest.geometry.kind != "tiled":
        return max(picture.height, picture.width)
    return manifest.geometry.halo + 4  # bicubic enlargement of alpha makes two more pixels slightly visible


def _enlarge(alpha: NDArray[Any], scale: int) -> NDArray[Any]:
    """Return (height, width) enlarged bicubically, same dtype."""
    size = alpha.shape[1] * scale, alpha.shape[0] * scale
    return np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC))


def _fill_hidden_colors(pixels: NDArray[Any], alpha: NDArray[Any], reach: int) -> NDArray[Any]:
    """Return `pixels` with each fully transparent one set to the color of the nearest other, up to `reach` pixels away.

    Colors under alpha 0 are arbitrary, often black, and a network would mix them into the visible edge. Works in
    strips, because the distances for a whole large picture would take more memory than the picture.
    """
    hidden = alpha == 0
    if not hidden.any():
        return pixels
    channels = pixels.shape[2]
    filled = np.array(pixels, order="C")
    for top in range(0, len(pixels), _STRIP):
        bottom = min(top + _STRIP, len(pixels))
        begin, end = max(0, top - reach), min(len(pixels), bottom + reach)
        around = hidden[begin:end]
        if around.all() or not hidden[top:bottom].any():
            continue
        # Each visible pixel has a label; a hidden pixel has the label of the nearest visible one, which is at an edge.
        distance, labels = cv2.distanceTransformWithLabels(
            around.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        inner = slice(top - begin, bottom - begin)
        near = np.flatnonzero(around[inner] & (distance[inner] <= reach))
        edge = np.flatnonzero(cv2.dilate(around.view(np.uint8), np.ones((5, 5), np.uint8)).view(bool) & ~around)
        colors = np.empty((int(labels.max()) + 1, channels), pixels.dtype)
        colors[labels.ravel()[edge]] = pixels[begin:end].reshape(-1, channels)[edge]
        filled[top:bottom].reshape(-1, channels)[near] = colors[labels[inner].ravel()[near]]
    return filled


def _check(options: SuperresOptions, sizes: Sizes, engine: Engine) -> None:  # noqa: ARG001
    find_model(options, engine)


def _probe(manifest: Manifest, picture: Picture) -> tuple[SuperresOptions, dict[str, Picture]]:  # noqa: ARG001
    scale = min(manifest.scales)
    return SuperresOptions.model_validate({"model": manifest.versioned_name, "scale": scale}), {}


TASK = Task(
    name="superres",
    summary="Enlarge a picture",
    description="Upscales a picture to 2, 3 or 4 times its width and height (super-resolution). Noise and JPEG "
    "artifacts are removed if the picture has them, unless `model` says otherwise.",
    options=SuperresOptions,
    run=superres,
    check=_check,
    probe=_probe,
    problems=("result-too-large", "conflicting-fields"),
)
