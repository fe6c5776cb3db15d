"""Style transfer: render a picture in the style of another, in one pass of a network or by optimization."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from app.engine.protocol import Engine, RequestContext
from app.errors import (
    ConflictingFields,
    MissingField,
    ModelUnavailable,
    UnknownModel,
    UnknownStyle,
    WeightsMissing,
    nearest,
)
from app.imaging.picture import Floats, Picture
from app.tasks.base import Size, Sizes, Task, TaskOptions, TaskResult
from app.tasks.inference import infer, manifest_default, reduce_picture
from app.tasks.stylize.canvas import canvas_size, finish_painting, make_canvas
from app.tasks.stylize.optimization import apply_difference, optimize_style
from app.tasks.tiling import Stopwatch, plan_for, run_tiled
from models.manifest import Manifest

PRESETS = "presets"
"""The model that a preset is painted with where no model is named, if it has it."""


class StylizeOptions(TaskOptions):
    style: str = Field(
        "",
        max_length=64,
        description="Name of a style preset; `GET /styles` lists them. Either `style` or `style_image` is required.",
        examples=["starry-night"],
    )
    method: Literal["fast", "optimize"] = Field(
        "fast",
        description="`fast`: one pass of the model, in seconds. `optimize`: changes the picture step by step until its "
        "features in VGG19 match the style of `style_image`, which takes minutes; run it as a job. It computes the "
        "change on a scaled-down picture and applies it to the full one.",
        examples=["fast"],
    )
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Strength of the style: 0 leaves the picture as it is, 1 is the full style.",
        examples=[1.0],
    )
    stroke_size: float = Field(
        1.0,
        ge=0.5,
        le=2,
        allow_inf_nan=False,
        description="Size of the strokes relative to the picture, for `method=fast`. Strokes of one size look the same "
        "in small and large pictures.",
        examples=[1.0],
    )
    preserve_color: bool = Field(
        False, description="Keep the colors of the picture and change only its luminance.", examples=[False]
    )
    steps: int = Field(
        300, ge=10, le=2000, description="Number of optimization steps for `method=optimize`.", examples=[300]
    )

    @property
    def needs_model(self) -> bool:
        return self.method == "fast"

    @property
    def uses_device(self) -> bool:
        """Whether a model runs: strength 0 leaves the picture as it is."""
        return self.strength > 0

    def model_size(self, size: Size) -> Size:
        """Return the size at which a picture of `size` is painted."""
        return canvas_size(size, self.stroke_size) if self.method == "fast" else size

    @property
    def preset(self) -> str | None:
        """The name of the preset, or None."""
        return self.style.strip() or None


async def stylize(
    picture: Picture,
    options: StylizeOptions,
    engine: Engine,
    context: RequestContext,
    *,
    style_image: Picture | None = None,
) -> TaskResult:
    """Return the picture in the style of a preset or of `style_image`: same size, channels, depth and alpha.

    Raises MissingField, ConflictingFields, UnknownStyle, UnknownModel, WeightsMissing, WorkTooLarge, ModelUnavailable
    and errors of the engine.
    """
    manifest = find_model(options, engine, has_style_image=style_image is not None)
    if not options.uses_device:
        decisions = {"method": options.method, "style": options.preset or "style_image"}
        return TaskResult(picture, manifest.id, decisions, Stopwatch(context).seconds())
    if options.method == "optimize":
        assert style_image is not None
        return await _stylize_by_optimization(picture, style_image, options, manifest, engine, context)
    return await _stylize_in_one_pass(picture, style_image, options, manifest, engine, context)


def find_model(options: StylizeOptions, engine: Engine, *, has_style_image: bool) -> Manifest:
    """Return the model for the options. Raises MissingField, ConflictingFields, UnknownStyle, UnknownModel,
    WeightsMissing, ModelUnavailable."""
    preset = options.preset
    if preset is None and not has_style_image:
        raise MissingField(
            "The style is missing. Send `style` (`GET /styles` lists the presets) or `style_image`.", field="style"
        )
    if preset is not None and has_style_image:
        raise ConflictingFields("Send either `style` or `style_image`, not both.", field="style")
    if preset is not None and options.method == "optimize":
        text = "`method=optimize` needs a `style_image` instead of a preset in `style`."
        raise ConflictingFields(text, field="method", value=options.method)
    if preset is not None and options.model_name is None and (painter := _find_presets(preset, engine)):
        return painter
    manifest = _find(options, engine)
    if preset is not None:
        _preset_index(preset, manifest)
    elif options.method == "fast" and "encode" not in manifest.signatures:
        text = f"The model {manifest.id} paints only its presets. Send `style` instead of `style_image`."
        raise ConflictingFields(text, field="model", value=manifest.id)
    return manifest


def _find_presets(preset: str, engine: Engine) -> Manifest | None:
    """Return the model that knows nothing but presets, if there is one, it works, and it has this one."""
    with suppress(UnknownModel, ModelUnavailable):
        manifest = engine.find("stylize", PRESETS)
        return manifest if preset in (style.name for style in manifest.styles) else None
    return None


def _find(options: StylizeOptions, engine: Engine) -> Manifest:
    needed, name = (
        ("optimize", options.model_name or "vgg19") if options.method == "optimize" else ("paint", options.model_name)
    )
    try:
        manifest = engine.find("stylize", name)
    except UnknownModel:
        if options.method != "optimize" or options.model_name is not None:
            raise
        text = (
            "`method=optimize` needs VGG19, which is not installed. The operator of the service can install it with "
            "`python -m training publish vgg19`."
        )
        raise WeightsMissing(text, field="method", value=options.method) from None
    if needed not in manifest.signatures:
        text = f"The model {manifest.id} does not support `method={options.method}`."
        raise ConflictingFields(text, field="model", value=manifest.id)
    return manifest


def _preset_index(wanted: str, manifest: Manifest) -> int:
    """Return the index of a preset. Raises UnknownStyle, which lists all presets."""
    names = [style.name for style in manifest.styles]
    if wanted not in names:
        known = f" Styles: {', '.join(names)}." if names else " This model has no presets. Send a `style_image`."
        text = f"There is no style {wanted[:60]!r}.{nearest(wanted, names)}{known}"
        raise UnknownStyle(text, field="style", value=wanted)
    return names.index(wanted)


async def _stylize_in_one_pass(
    picture: Picture,
    style_image: Picture | None,
    options: StylizeOptions,
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
) -> TaskResult:
    """Run the network once per tile. Statistics for its instance normalization come from the scaled-down picture."""
    watch = Stopwatch(context)
    size = options.model_size(Size(picture.width, picture.height))
    canvas = await asyncio.to_thread(make_canvas, picture, size)
    plan = await plan_for(canvas, manifest, "paint", engine.tile_mebibytes)
    vector = await _style_vector(style_image, options, manifest, engine, context)
    if options.strength < 1:
        own = await _own_vector(picture, manifest, engine, context)
        vector = np.float32(options.strength) * vector + np.float32(1 - options.strength) * own
    side = int(manifest_default(manifest, "statistics_side"))
    small = await asyncio.to_thread(reduce_picture, picture.pixels, side, manifest.geometry.multiple)
    measured = await infer(manifest, "statistics", {"image": small, "vector": vector}, engine, context)
    constants = {"vector": vector, "moments": measured["moments"]}
    painted = await run_tiled(canvas, plan, manifest, "paint", engine, context, constants=constants)
    # The vector alone does not bring the picture back: the network repaints it in its own style, too.
    share = options.strength * (2 - options.strength)
    pixels = await asyncio.to_thread(
        finish_painting, picture, canvas, painted, share, preserve_color=options.preserve_color
    )
    decisions = {
        "method": "fast",
        "style": options.preset or "style_image",
        "size": f"{size.width}x{size.height}",
        "tiles": str(len(plan.tiles)),
        "precision": context.usage.precision("paint"),
    }
    return TaskResult(picture.with_pixels(pixels, picture.alpha), manifest.id, decisions, watch.seconds())


async def _style_vector(
    style_image: Picture | None, options: StylizeOptions, manifest: Manifest, engine: Engine, context: RequestContext
) -> Floats:
    if style_image is not None:
        return await _encode(style_image, manifest, engine, context)
    return await _preset_vector(_preset_index(str(options.preset), manifest), manifest, engine, context)


async def _own_vector(picture: Picture, manifest: Manifest, engine: Engine, context: RequestContext) -> Floats:
    """Return the vector in which the network leaves `picture` nearly as it is: its own style, or a learned one."""
    if "encode" in manifest.signatures:
        return await _encode(picture, manifest, engine, context)
    return await _preset_vector(len(manifest.styles), manifest, engine, context)


async def _preset_vector(number: int, manifest: Manifest, engine: Engine, context: RequestContext) -> Floats:
    index = np.full((1, 1), number, np.float32)
    return (await infer(manifest, "preset", {"index": index}, engine, context))["vector"]


async def _encode(picture: Picture, manifest: Manifest, engine: Engine, context: RequestContext) -> Floats:
    side = int(manifest_default(manifest, "style_side"))
    small = await asyncio.to_thread(reduce_picture, picture.pixels, side, manifest.geometry.multiple)
    return (await infer(manifest, "encode", {"style": small}, engine, context))["vector"]


async def _stylize_by_optimization(
    picture: Picture,
    style_image: Picture,
    options: StylizeOptions,
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
) -> TaskResult:
    watch = Stopwatch(context)
    painter = _find_painter(engine, manifest.geometry.multiple)
    paint = partial(_paint_whole, style_image, painter, engine, context) if painter else None
    difference = await optimize_style(picture, style_image, options.steps, manifest, engine, context, paint)
    difference *= np.float32(options.strength)
    pixels = await asyncio.to_thread(apply_difference, picture, difference, luminance_only=options.preserve_color)
    decisions = {
        "method": "optimize",
        "style": "style_image",
        "steps": str(options.steps),
        "size": f"{difference.shape[1]}x{difference.shape[0]}",
        "precision": context.usage.precision("optimize"),
    }
    return TaskResult(picture.with_pixels(pixels, picture.alpha), manifest.id, decisions, watch.seconds())


def _find_painter(engine: Engine, multiple: int) -> Manifest | None:
    """Return the default model if it paints pictures with sides of any `multiple` in one pass, else None."""
    try:
        manifest = engine.find("stylize")
    except (UnknownModel, ModelUnavailable):
        return None
    fits = manifest.geometry.kind == "tiled" and multiple % manifest.geometry.multiple == 0
    return manifest if fits and "paint" in manifest.signatures else None


async def _paint_whole(
    style_image: Picture, manifest: Manifest, engine: Engine, context: RequestContext, image: Floats
) -> Floats:
    """Return `image`, float32 [1,h,w,3] in [0, 1], in the style of `style_image`, in one call and one pass."""
    vector = await _encode(style_image, manifest, engine, context)
    measured = await infer(manifest, "statistics", {"image": image, "vector": vector}, engine, context)
    inputs = {"image": image, "vector": vector, "moments": measured["moments"]}
    painted = await infer(manifest, "paint", inputs, engine, context)
    return np.asarray(np.clip(painted["image"], 0, 1), np.float32)


def _check(options: StylizeOptions, sizes: Sizes, engine: Engine) -> None:
    if options.method == "fast" and options.steps != StylizeOptions.model_fields["steps"].default:
        raise ConflictingFields("`method=fast` has no steps. Remove `steps`.", field="steps", value=options.steps)
    find_model(options, engine, has_style_image="style_image" in sizes)


def _probe(manifest: Manifest, picture: Picture) -> tuple[StylizeOptions, dict[str, Picture]]:
    model = manifest.versioned_name
    if "encode" in manifest.signatures or not manifest.styles:
        return StylizeOptions(model=model), {"style_image": picture}
    return StylizeOptions(model=model, style=manifest.styles[0].name), {}


TASK = Task(
    name="stylize",
    summary="Apply the style of a painting",
    description="Style transfer: renders a photo in the style of a preset or of another picture.",
    options=StylizeOptions,
    run=stylize,
    check=_check,
    probe=_probe,
    pictures={"style_image": "Picture with the style to apply, instead of a preset in `style`."},
    problems=("conflicting-fields", "unknown-style", "weights-missing"),
)
