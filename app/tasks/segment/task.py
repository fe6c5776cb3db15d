"""Segment a picture: return a mask, a cutout, an overlay or a table of its classes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from app.engine.protocol import Engine, InferenceRequest, RequestContext
from app.errors import ConflictingFields, InvalidField, ModelUnavailable, UnknownClass, nearest
from app.imaging import guided_filter
from app.imaging.picture import Floats, Picture
from app.tasks.base import Sizes, Task, TaskOptions, TaskResult
from app.tasks.segment.outputs import Color, Rows, Segmentation, cut_out, draw_mask, draw_overlay, make_table
from app.tasks.tiling import Stopwatch, plan_for, require_signature, run_tiled
from models.manifest import Class, Manifest

LEAST_FOUND = 0.001
"""The share of the picture below which nothing was found."""
COLOR = "^#[0-9a-fA-F]{6}$"


class SegmentOptions(TaskOptions):
    output: Literal["mask", "cutout", "overlay", "json"] = Field(
        "mask",
        description="`mask`: a PNG of class ids with names and colors in its palette, or of 0 and 255 for a binary "
        "model; `cutout`: the picture with everything but the classes transparent; `overlay`: the picture with the "
        "classes in color; `json`: pixels, fraction and bounding box of each class.",
        examples=["mask"],
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Minimum probability of the foreground. For binary models only.",
        examples=[""],
    )
    classes: str = Field(
        "",
        max_length=1000,
        description="Classes to select, as names or ids separated by commas. Empty: all.",
        examples=[""],
    )
    background: Literal["transparent"] | Annotated[str, Field(pattern=COLOR, description="a color as #rrggbb")] = Field(
        "transparent",
        description="Background of a cutout: `transparent`, or a color as `#rrggbb`.",
        examples=["transparent"],
    )
    edge: Literal["soft", "hard"] = Field(
        "soft",
        description="Edge of a cutout: `soft` keeps hair and blurred edges half transparent; `hard` makes each pixel "
        "opaque or transparent, by `threshold`.",
        examples=["soft"],
    )
    shrink: int = Field(
        0, ge=0, le=16, description="Pixels to take off the edge of a cutout, where a rim is left.", examples=[0]
    )
    opacity: float = Field(
        0.5, ge=0, le=1, allow_inf_nan=False, description="Opacity of the colors of an overlay.", examples=[0.5]
    )

    @property
    def returns_table(self) -> bool:
        return self.output == "json"

    @property
    def class_names(self) -> list[str]:
        """The names or ids of the selected classes; empty for all."""
        return [name.strip() for name in self.classes.split(",") if name.strip()]

    @property
    def background_color(self) -> Color | None:
        """The background as (red, green, blue), or None if it is transparent."""
        text = self.background
        return None if text == "transparent" else (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))


class CutoutOptions(SegmentOptions):
    """The options of `/cutout`: those of `/segment`, with `output=cutout`."""

    output: Literal["cutout"] = Field("cutout", description="Always `cutout`.", examples=["cutout"])

    @model_validator(mode="before")
    @classmethod
    def _name_output(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Set `output`, as if it had been sent: a job keeps what was set, for the form of `/segment`."""
        return {"output": "cutout", **values}


async def segment(
    picture: Picture,
    options: SegmentOptions,
    engine: Engine,
    context: RequestContext,
    *,
    background_image: Picture | None = None,
) -> TaskResult:
    """Return a mask, cutout, overlay or table of the picture, at its own size.

    `background_image` is the background of a cutout instead of `options.background`. Raises UnknownModel, UnknownClass,
    InvalidField, ConflictingFields, ModelUnavailable and errors of the engine.
    """
    watch = Stopwatch(context)
    manifest, chosen = find_model(options, engine, has_background_image=background_image is not None)
    binary = _is_binary(manifest)
    rows, coarse, decisions = await _probabilities(picture, manifest, engine, context)
    seen = manifest.geometry.nearest_size(picture.height, picture.width) if "size" in decisions else None
    coarseness = max(1.0, math.sqrt(picture.height * picture.width / math.prod(seen))) if seen else 1.0
    found = Segmentation(picture, rows, manifest.classes, chosen, options.threshold, binary, coarseness)
    decisions |= {"precision": context.usage.precision("segment")}
    warnings: tuple[str, ...] = ()
    if await asyncio.to_thread(found.share, coarse) < LEAST_FOUND:
        decisions["found"] = "nothing"
        warnings = (_explain_nothing(manifest, found),)
    if binary:
        decisions["threshold"] = f"{options.threshold:g}"
    if options.output == "json":
        table = await asyncio.to_thread(make_table, found)
        return TaskResult(picture, manifest.id, decisions, watch.seconds(), table, warnings)
    if options.output == "mask":
        result = await asyncio.to_thread(draw_mask, found)
    elif options.output == "overlay":
        result = await asyncio.to_thread(draw_overlay, found, options.opacity)
    else:
        backdrop = background_image or options.background_color
        hard = options.edge == "hard"
        result = await asyncio.to_thread(cut_out, found, backdrop, hard=hard, shrink=options.shrink)
    if options.output != "mask" and picture.metadata.icc and not result.metadata.icc:
        decisions["icc"] = "dropped"
    return TaskResult(result, manifest.id, decisions, watch.seconds(), warnings=warnings)


def _explain_nothing(manifest: Manifest, found: Segmentation) -> str:
    names = ", ".join(one.name for one in found.subjects[:10])
    return (
        f"Nothing was found: less than {LEAST_FOUND:.1%} of the picture is {names}, as {manifest.id} sees it. "
        "Try another model (`GET /models`), a lower `threshold`, or a part of the picture."
    )


def find_model(options: SegmentOptions, engine: Engine, *, has_background_image: bool) -> tuple[Manifest, list[Class]]:
    """Return the model and the selected classes.

    Raises UnknownModel, UnknownClass, InvalidField, ConflictingFields, ModelUnavailable.
    """
    has_color = options.background != "transparent"
    if has_color and has_background_image:
        text = "Send either `background` or `background_image`, not both."
        raise ConflictingFields(text, field="background", value=options.background)
    if (has_color or has_background_image) and options.output != "cutout":
        text = f"A background needs `output=cutout`; `output={options.output}` has none."
        raise ConflictingFields(text, field="background", value=options.output)
    manifest = engine.find("segment", options.model_name)
    if "threshold" in options.model_fields_set and not _is_binary(manifest):
        text = (
            f"The model {manifest.id} is multi-class ({len(manifest.classes)} classes); `threshold` applies to binary "
            "models only."
        )
        raise InvalidField(text, field="threshold", value=options.threshold)
    return manifest, _choose_classes(manifest, options.class_names)


def _is_binary(manifest: Manifest) -> bool:
    return require_signature(manifest, "segment").outputs["probabilities"].shape[-1] == 1


def _choose_classes(manifest: Manifest, wanted: Sequence[str]) -> list[Class]:
    """Return the classes in `wanted`, or all if it is empty. Raises UnknownClass."""
    known = {one.name: one for one in manifest.classes} | {str(one.id): one for one in manifest.classes}
    for name in wanted:
        if name not in known:
            names = [one.name for one in manifest.classes]
            raise UnknownClass(
                f"The model {manifest.id} has no class {name[:60]!r}.{nearest(name[:60], names)} "
                f"Classes: {', '.join(names)}.",
                field="classes",
                value=name[:60],
                limit=names,
            )
    return list({known[name].id: known[name] for name in wanted}.values()) or list(manifest.classes)


async def _probabilities(
    picture: Picture, manifest: Manifest, engine: Engine, context: RequestContext
) -> tuple[Rows, Iterable[Floats], dict[str, str]]:
    """Return a function that returns probabilities by row, all of them as coarse as they were found (in parts), and the
    decisions for `X-Applied`."""
    if manifest.geometry.kind == "tiled":
        plan = await plan_for(picture, manifest, "segment", engine.tile_mebibytes)
        whole = await run_tiled(
            picture, plan, manifest, "segment", engine, context, output="probabilities", dtype=np.uint16
        )

        def rows_of(rows: slice) -> Floats:
            return whole[rows].astype(np.float32) / np.float32(65535)

        strips = guided_filter.split_rows(picture.height, picture.width)
        return rows_of, map(rows_of, strips), {"tiles": str(len(plan.tiles))}
    if manifest.geometry.kind != "canonical":
        text = f"The model {manifest.id} has a geometry that this task does not support: {manifest.geometry.kind}."
        raise ModelUnavailable(text, field="model", value=manifest.id)
    size = manifest.geometry.nearest_size(picture.height, picture.width)
    small = await asyncio.to_thread(_resize, picture.pixels, size)
    request = InferenceRequest(manifest.id, "segment", {"image": small[None]}, context, size[0] * size[1])
    context.progress.expect(1)
    answer = (await engine.run(request))["probabilities"][0]
    context.progress.step()
    if not np.isfinite(answer).all():
        raise ModelUnavailable(f"The model {manifest.id} returned NaN or infinity.", value=manifest.id)
    guided = await asyncio.to_thread(guided_filter.fit, answer, small)
    full = picture.height, picture.width
    return (
        lambda rows: guided_filter.apply(guided, picture.pixels[rows], rows, full),
        [answer],
        {"size": f"{size[1]}x{size[0]}"},
    )


def _resize(pixels: NDArray[Any], size: tuple[int, int]) -> Floats:
    """Return `pixels` as float32 (*size, 3) in [0, 1]: averaged along a side that shrinks, else interpolated."""
    # In two steps, because OpenCV averages areas only where both sides shrink.
    smaller = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
    reduced = cv2.resize(pixels, smaller[::-1], interpolation=cv2.INTER_AREA)
    white = np.float32(np.iinfo(pixels.dtype).max)
    resized = np.atleast_3d(cv2.resize(reduced, size[::-1], interpolation=cv2.INTER_LINEAR)).astype(np.float32) / white
    return np.repeat(resized, 3, axis=-1) if resized.shape[-1] == 1 else resized


def _check(options: SegmentOptions, sizes: Sizes, engine: Engine) -> None:
    find_model(options, engine, has_background_image="background_image" in sizes)


def _outline(options: SegmentOptions, pictures: Mapping[str, Picture]) -> Picture:
    """Return a picture with the channels and alpha of the result: only a transparent cutout has alpha."""
    picture = pictures["image"]
    if options.output == "overlay":
        return picture
    behind = pictures.get("background_image")
    opaque = options.background != "transparent" if behind is None else behind.alpha is None
    return replace(picture, alpha=None if opaque or options.output != "cutout" else picture.pixels[..., 0])


def _probe(manifest: Manifest, picture: Picture) -> tuple[SegmentOptions, dict[str, Picture]]:  # noqa: ARG001
    return SegmentOptions(model=manifest.versioned_name), {}


PICTURES = {
    "background_image": "Picture for the background of a cutout, instead of `background`. It is scaled to cover the "
    "whole picture, cropped around its center, and keeps its transparency. Its colors are converted to the color "
    "profile of the picture."
}
PROBLEMS = ("unknown-class", "conflicting-fields")
CUTOUT: Task[SegmentOptions] = Task(
    name="segment",
    endpoint="cutout",
    summary="Remove the background of a picture",
    description="Background removal: cuts the main object out of a photo, such as a product, a person or an animal, "
    "and returns it on a transparent background, on a color, or before another picture. The same as `/segment` with "
    "`output=cutout`.",
    options=CutoutOptions,
    run=segment,
    check=_check,
    outline=_outline,
    probe=_probe,
    pictures=PICTURES,
    problems=PROBLEMS,
)
TASK = Task(
    name="segment",
    summary="Segment a picture or remove its background",
    description="Finds the objects in a photo and returns a mask, a cutout with a transparent or new background, an "
    "overlay, or a table of the classes. To remove the background, use `output=cutout`.",
    options=SegmentOptions,
    run=segment,
    check=_check,
    outline=_outline,
    probe=_probe,
    pictures=PICTURES,
    problems=PROBLEMS,
    shortcuts=(CUTOUT,),
)
