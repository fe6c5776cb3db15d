"""A picture painted in the manner of another: in one pass by a network, or step by step by optimisation."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Engine, RequestContext
from app.errors import (
    ConflictingFields,
    InvalidField,
    MissingField,
    UnknownModel,
    UnknownStyle,
    WeightsMissing,
    nearest,
)
from app.imaging.color import LUMINANCE
from app.imaging.picture import Picture
from app.tasks.answer import Answer
from app.tasks.optimizing import changed, optimized
from app.tasks.tiled import Stopwatch, plan_for, through
from app.tasks.whole import asked, default, reduced
from models.manifest import Manifest

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StylizeWish:
    """`style` is a preset's name, or `style_image` a picture: one of them. `strength` is in [0, 1].

    `steps` are those of `optimize`, which needs a `style_image`.
    """

    style: str | None = None
    style_image: Picture | None = None
    method: Literal["fast", "optimize"] = "fast"
    model: str | None = None
    strength: float = 1.0
    preserve_color: bool = False
    steps: int = 300


async def stylize(picture: Picture, wish: StylizeWish, engine: Engine, context: RequestContext) -> Answer:
    """Return the picture in another manner: same size, channels, depth and alpha.

    Raises MissingField, ConflictingFields, InvalidField, UnknownStyle, UnknownModel, WeightsMissing, WorkTooLarge,
    ModelUnavailable and what the engine raises.
    """
    manifest = check(wish, engine, pictured=wish.style_image is not None)
    return await (_optimized if wish.method == "optimize" else _painted)(picture, wish, manifest, engine, context)


def check(wish: StylizeWish, engine: Engine, *, pictured: bool) -> Manifest:
    """Return the model; `pictured`: there is a style image.

    Raises MissingField, ConflictingFields, InvalidField, UnknownStyle, UnknownModel, WeightsMissing, ModelUnavailable.
    """
    if not 0 <= wish.strength <= 1:
        text = f"strength is {wish.strength:g}; it must lie between 0 and 1."
        raise InvalidField(text, field="strength", value=wish.strength)
    if wish.style is None and not pictured:
        raise MissingField("Name a style (GET /styles lists them), or send a style_image.", field="style")
    if wish.style is not None and pictured:
        raise ConflictingFields("style and style_image exclude each other: send one of them.", field="style")
    if wish.style is not None and wish.method == "optimize":
        text = "method=optimize looks at a picture: send a style_image, a preset is none."
        raise ConflictingFields(text, field="method", value=wish.method)
    manifest = _model(wish, engine)
    if wish.style is not None:
        _number(wish.style, manifest)
    return manifest


def _model(wish: StylizeWish, engine: Engine) -> Manifest:
    needed, name = ("optimize", wish.model or "vgg19") if wish.method == "optimize" else ("paint", wish.model)
    try:
        manifest = engine.find("stylize", name)
    except UnknownModel:
        if wish.method != "optimize" or wish.model is not None:
            raise
        text = (
            "method=optimize needs VGG19, which is not installed here. Whoever runs the service installs it with "
            "`python -m training publish vgg19`."
        )
        raise WeightsMissing(text, field="method", value=wish.method) from None
    if needed not in manifest.signatures:
        text = f"The model {manifest.id} is not for method={wish.method}."
        raise ConflictingFields(text, field="model", value=manifest.id)
    return manifest


def _number(wanted: str, manifest: Manifest) -> int:
    """Return the number of a preset. Raises UnknownStyle, which names the nearest and all."""
    names = [style.name for style in manifest.styles]
    if wanted not in names:
        known = f" Styles: {', '.join(names)}." if names else " This model knows none: send a style_image."
        text = f"There is no style {wanted[:60]!r}.{nearest(wanted, names)}{known}"
        raise UnknownStyle(text, field="style", value=wanted)
    return names.index(wanted)


async def _painted(
    picture: Picture, wish: StylizeWish, manifest: Manifest, engine: Engine, context: RequestContext
) -> Answer:
    """In one pass: what instance normalisation needs of the whole picture is measured once, on a reduced one."""
    watch = Stopwatch(context)
    plan = await plan_for(picture, manifest, "paint")
    vector = await _vector(wish, manifest, engine, context)
    if wish.strength < 1:
        own = await _encoded(picture, manifest, engine, context)
        vector = np.float32(wish.strength) * vector + np.float32(1 - wish.strength) * own
    side = int(default(manifest, "statistics_side"))
    small = await asyncio.to_thread(reduced, picture.pixels, side, manifest.geometry.multiple)
    measured = await asked(manifest, "statistics", {"image": small, "vector": vector}, engine, context)
    constants = {"vector": vector, "moments": measured["moments"]}
    finish = in_own_colours if wish.preserve_color else None
    pixels = await through(picture, plan, manifest, "paint", engine, context, constants=constants, finish=finish)
    applied = {
        "method": "fast",
        "style": wish.style or "style_image",
        "tiles": str(len(plan.tiles)),
        "precision": manifest.signatures["paint"].precision,
    }
    return Answer(picture.with_pixels(pixels, picture.alpha), manifest.id, applied, watch.seconds())


def in_own_colours(window: Floats, result: Floats) -> Floats:
    """Return `window` with the luminance of `result`; both [1,h,w,channels], in [0, 1]."""
    if result.shape[-1] == 1:
        return result
    return np.asarray(window + ((np.clip(result, 0, 1) - window) @ LUMINANCE)[..., None], np.float32)


async def _vector(wish: StylizeWish, manifest: Manifest, engine: Engine, context: RequestContext) -> Floats:
    if wish.style_image is not None:
        return await _encoded(wish.style_image, manifest, engine, context)
    index = np.full((1, 1), _number(str(wish.style), manifest), np.float32)
    return (await asked(manifest, "preset", {"index": index}, engine, context))["vector"]


async def _encoded(picture: Picture, manifest: Manifest, engine: Engine, context: RequestContext) -> Floats:
    side = int(default(manifest, "style_side"))
    small = await asyncio.to_thread(reduced, picture.pixels, side, manifest.geometry.multiple)
    return (await asked(manifest, "encode", {"style": small}, engine, context))["vector"]


async def _optimized(
    picture: Picture, wish: StylizeWish, manifest: Manifest, engine: Engine, context: RequestContext
) -> Answer:
    assert wish.style_image is not None
    watch = Stopwatch(context)
    difference = await optimized(picture, wish.style_image, wish.steps, manifest, engine, context)
    difference *= np.float32(wish.strength)
    pixels = await asyncio.to_thread(changed, picture, difference, luminance_only=wish.preserve_color)
    applied = {
        "method": "optimize",
        "style": "style_image",
        "steps": str(wish.steps),
        "size": f"{difference.shape[1]}x{difference.shape[0]}",
        "precision": manifest.signatures["optimize"].precision,
    }
    return Answer(picture.with_pixels(pixels, picture.alpha), manifest.id, applied, watch.seconds())
