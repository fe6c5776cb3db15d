"""Fill what a mask marks as missing from its surroundings."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from app.engine.protocol import Engine, RequestContext
from app.errors import ConflictingFields, MaskEmpty, MaskFull, MaskSize, MissingField, UnknownModel, WorkTooLarge
from app.imaging import classical_inpaint, holes
from app.imaging.holes import Mask, Region
from app.imaging.picture import Picture
from app.imaging.tiles import Box
from app.tasks.base import Sizes, Task, TaskOptions, TaskResult
from app.tasks.concurrency import ordered_gather
from app.tasks.inpaint.neural import fill, reach, search
from app.tasks.tiling import Stopwatch, check_size
from models.manifest import Manifest

MAX_WORK = 250_000_000
"""Missing pixels × radius² that Telea and Navier-Stokes may be asked for: half a minute of a core."""
MIN_RADIUS = 7
"""Below this radius a pixel costs as much as with it."""
MAX_BIHARMONIC = 160_000
"""Missing pixels that the biharmonic method solves for at once: eight seconds and most of a gigabyte."""
MAX_BIHARMONIC_TOTAL = 2_000_000
SCRATCH = 8
"""Up to so many pixels across, `auto` takes the biharmonic method without a model: `python -m benchmarks.inpaint`."""
MARGIN = 2 * holes.THIN
"""Pixels around a hole that its filling may depend on, beside the radius."""
LOSSY_BLACK = 31
"""What a lossy mask may have, of 255, where its author meant black."""


class InpaintOptions(TaskOptions):
    mask_from: Literal["file", "alpha"] = Field(
        "file",
        description="Where the mask is: `file`, the field `mask`; `alpha`, the picture's own transparency: whatever is "
        "not opaque is missing, and the result is opaque.",
        examples=["file"],
    )
    method: Literal["auto", "neural", "dcgan", "telea", "ns", "biharmonic"] = Field(
        "auto",
        description="`neural`: the model; `dcgan`: what a generator makes that agrees with the rest, searched for by a "
        "model that does (by default `digits`); `telea`: fast marching; `ns`: Navier-Stokes; `biharmonic`: the "
        "smoothest surface, best for small holes; `auto`: what measured best, which is the model where there is one. "
        "`X-Applied` says what was used.",
        examples=["auto"],
    )
    radius: int = Field(
        3, ge=1, le=64, description="How far `telea` and `ns` look for what is known, in pixels.", examples=[3]
    )
    dilate: int = Field(
        0, ge=0, le=64, description="By how many pixels to widen the mask: edges of stamps are blurred.", examples=[0]
    )
    feather: int = Field(
        0,
        ge=0,
        le=64,
        description="Over how many pixels around the widened mask the filling fades into the picture.",
        examples=[0],
    )

    @property
    def model_name(self) -> str | None:
        return super().model_name or ("digits" if self.method == "dcgan" else None)

    @property
    def needs_model(self) -> bool:
        return self.method in ("neural", "dcgan")

    @property
    def uses_device(self) -> bool:
        return self.method in SIGNATURES


Method = Literal["neural", "dcgan"] | classical_inpaint.Method
SIGNATURES: dict[str, str] = {"auto": "inpaint", "neural": "inpaint", "dcgan": "search"}
"""What a method asks of its model."""


async def inpaint(
    picture: Picture,
    options: InpaintOptions,
    engine: Engine,
    context: RequestContext,
    *,
    mask: Picture | None = None,
) -> TaskResult:
    """Return the picture with its holes filled; every pixel that is not in or near a hole as it was.

    `mask` is white where the picture is missing; None: where the picture is not opaque. Lengths are in pixels.
    Raises MaskSize, MaskEmpty, MaskFull, ConflictingFields, WorkTooLarge, UnknownModel, WrongSize,
    ModelUnavailable and what the engine raises.
    """
    watch = Stopwatch(context)
    manifest = _find_model(options, engine)
    work, plan = await asyncio.to_thread(_plan, picture, mask, options, manifest)

    async def one(part: tuple[Region, Method]) -> _FilledBox:
        region, method = part
        if method == "neural" or method == "dcgan":
            assert manifest is not None
            return await _fill_by_model(work, region, method, manifest, engine, context)
        return await asyncio.get_running_loop().run_in_executor(_pool(method), _fill_classically, work, region, method)

    async def keep(part: tuple[Region, Method], filled: _FilledBox) -> None:
        await asyncio.to_thread(work.keep, *filled, part[0].core)
        context.progress.step()

    context.progress.expect(len(plan))
    await ordered_gather(plan, one, keep)
    used = Counter(method for _, method in plan)
    decisions = {
        "method": "+".join(f"{method}:{count}" for method, count in sorted(used.items())),
        "missing": str(int(np.count_nonzero(work.missing))),
    }
    model = ""
    if manifest is not None and not used.keys().isdisjoint(SIGNATURES):
        model = manifest.id
        decisions["precision"] = manifest.signatures[SIGNATURES[options.method]].precision
    return TaskResult(work.picture.with_pixels(work.result, work.alpha), model, decisions, watch.seconds())


def _find_model(options: InpaintOptions, engine: Engine) -> Manifest | None:
    """Return the model for what asks for one, or may take one where there is one.

    Raises UnknownModel, and ConflictingFields for a model that is for another method.
    """
    if options.method not in SIGNATURES:
        return None
    try:
        manifest = engine.find("inpaint", options.model_name)
    except UnknownModel:
        if options.method != "auto" or options.model_name is not None:
            raise
        return None
    if options.method == "auto" and options.model_name is None and manifest.geometry.kind != "canonical":
        return None  # it may not take this picture, and nobody asked for it
    if SIGNATURES[options.method] not in manifest.signatures:
        text = f"The model {manifest.id} is not for method={options.method}."
        raise ConflictingFields(text, field="model", value=manifest.id)
    return manifest


def _plan(
    picture: Picture, mask: Picture | None, options: InpaintOptions, manifest: Manifest | None
) -> tuple[_PartialResult, list[tuple[Region, Method]]]:
    """Return what is to be done, region by region. Raises what `inpaint` raises of the mask, the work and the size."""
    hole = _find_hole(picture, mask)
    if mask is None:
        picture = picture.with_pixels(picture.pixels, None)  # whatever was seen through is filled
    inside = holes.dilate(hole, options.dilate)
    missing = holes.dilate(inside, options.feather)
    if missing.all():
        field = "feather" if options.feather else "dilate"
        raise MaskFull("Widened, the mask marks the whole picture: there is nothing to fill from.", field=field)
    if manifest is not None and manifest.geometry.kind in ("whole", "fixed"):
        whole = Box(0, 0, picture.height, picture.width)
        regions = [Region(whole, whole)]
    else:
        regions = holes.find_regions(missing, MARGIN + 2 * options.radius)
    methods = [_choose_method(region, missing, options, manifest) for region in regions]
    _check_work(regions, methods, missing, options.radius)
    if manifest is not None and not SIGNATURES.keys().isdisjoint(methods):
        check_size(picture, manifest, manifest.signatures[SIGNATURES[options.method]].inputs["image"].shape[-1])
    alpha = None if picture.alpha is None else picture.alpha.copy()
    work = _PartialResult(picture, options, inside, missing, picture.pixels.copy(), alpha)
    return work, list(zip(regions, methods, strict=True))


def _find_hole(picture: Picture, mask: Picture | None) -> Mask:
    """Return where the picture is missing. Raises MaskSize, MaskEmpty, MaskFull, ConflictingFields."""
    field = "mask_from" if mask is None else "mask"
    if mask is None:
        if picture.alpha is None:
            raise ConflictingFields("mask_from=alpha needs a picture with transparency; this has none.", field=field)
        hole = picture.alpha < picture.maximum
    else:
        if (mask.height, mask.width) != (picture.height, picture.width):
            raise MaskSize(
                f"The mask has {mask.width}×{mask.height} pixels, the picture {picture.width}×{picture.height} "
                "(upright). They must be the same.",
                field=field,
                value=f"{mask.width}×{mask.height}",
                limit=f"{picture.width}×{picture.height}",
            )
        # In a lossy file black is seldom exactly 0.
        least = LOSSY_BLACK * mask.maximum // 255 if mask.format in ("jpeg", "webp", "avif") else 0
        hole = np.asarray((mask.pixels > least).any(axis=-1))
        if mask.alpha is not None:
            hole &= mask.alpha > least
    if not hole.any():
        raise MaskEmpty("The mask marks nothing: no pixel of it is white.", field=field)
    if hole.all():
        raise MaskFull("The mask marks the whole picture: there is nothing to fill from.", field=field)
    return hole


def _choose_method(region: Region, missing: Mask, options: InpaintOptions, manifest: Manifest | None) -> Method:
    if options.method != "auto":
        return options.method
    if manifest is not None:
        return "neural"
    scratch = holes.is_thin(missing[region.core.slices], SCRATCH)
    return "biharmonic" if scratch and _count_missing(region, missing) <= MAX_BIHARMONIC else "ns"


def _count_missing(region: Region, missing: Mask) -> int:
    return int(np.count_nonzero(missing[region.window.slices]))


def _check_work(regions: list[Region], methods: list[Method], missing: Mask, radius: int) -> None:
    """Raise WorkTooLarge for what would take longer than anybody should hold a core."""
    counts = [_count_missing(region, missing) for region in regions]
    smooth = [count for count, method in zip(counts, methods, strict=True) if method == "biharmonic"]
    if smooth and (max(smooth) > MAX_BIHARMONIC or sum(smooth) > MAX_BIHARMONIC_TOTAL):
        raise WorkTooLarge(
            f"The biharmonic method would solve for {max(smooth)} pixels in one hole and {sum(smooth)} in all; the "
            f"limits are {MAX_BIHARMONIC} and {MAX_BIHARMONIC_TOTAL}. Take telea or ns, or a smaller mask.",
            field="method",
            value=max(smooth),
            limit=MAX_BIHARMONIC,
        )
    marched = sum(count for count, method in zip(counts, methods, strict=True) if method in ("telea", "ns"))
    work = marched * max(radius, MIN_RADIUS) ** 2
    if work > MAX_WORK:
        raise WorkTooLarge(
            f"{marched} missing pixels × radius² ({radius}, at least {MIN_RADIUS}) are {work}; the limit is "
            f"{MAX_WORK}. Take a smaller radius or mask.",
            field="radius",
            value=work,
            limit=MAX_WORK,
        )


@functools.cache
def _pool(method: classical_inpaint.Method) -> ThreadPoolExecutor:
    """Return the one thread of a method: it holds up no other, nor what decodes, encodes or feeds the device."""
    return ThreadPoolExecutor(1, thread_name_prefix=method)


@dataclass(frozen=True, slots=True)
class _PartialResult:
    """A picture with holes, and what becomes of it: `result` and `alpha` are written region by region.

    `missing` is made up; of that, all is seen `inside`, and the rest fades.
    """

    picture: Picture
    options: InpaintOptions
    inside: Mask
    missing: Mask
    result: NDArray[Any]
    alpha: NDArray[Any] | None

    def planes(self, box: Box) -> tuple[NDArray[Any], Mask]:
        """Return what is to be filled in `box`, (height, width, planes), and where; with opacity, premultiplied."""
        pixels, hole = self.picture.pixels[box.slices], np.ascontiguousarray(self.missing[box.slices])
        if self.picture.alpha is None:
            return np.ascontiguousarray(pixels), hole
        return _premultiply(pixels, self.picture.alpha[box.slices]), hole

    def keep(self, filled: NDArray[Any], box: Box, core: Box) -> None:
        """Write what is missing in `core`, which lies in `box`; `filled` are the planes of `box`."""
        part, within = core.slices, core.relative_to(box).slices
        shown = holes.feather(np.ascontiguousarray(self.inside[box.slices]), self.options.feather)[within][..., None]
        hole, colors = self.missing[part], filled[within]
        if self.alpha is not None and self.picture.alpha is not None:
            colors, opaque = _unpremultiply(colors, self.picture.maximum)
            _blend(self.alpha[part][..., None], self.picture.alpha[part][..., None], opaque[..., None], shown, hole)
        _blend(self.result[part], self.picture.pixels[part], colors, shown, hole)


_FilledBox = tuple[NDArray[Any], Box]
"""The planes of a box after what is missing in it was filled, and the box."""


def _fill_classically(work: _PartialResult, region: Region, method: classical_inpaint.Method) -> _FilledBox:
    planes, hole = work.planes(region.window)
    return classical_inpaint.fill(planes, hole, method, work.options.radius), region.window


async def _fill_by_model(
    work: _PartialResult,
    region: Region,
    method: Literal["neural", "dcgan"],
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
) -> _FilledBox:
    box = holes.expand_box(region.core, reach(region.core), work.missing.shape)
    planes, hole = await asyncio.to_thread(work.planes, box)
    white = np.float32(np.iinfo(planes.dtype).max)
    colors = work.picture.channels
    filled = []
    for part in (planes[..., :colors], planes[..., colors:]):
        if part.shape[-1]:
            scaled = await asyncio.to_thread(np.multiply, part, 1 / white, dtype=np.float32)
            if method == "dcgan":
                filled.append(await search(scaled, hole, manifest, engine, context))
            else:
                filled.append(await fill(scaled, hole, manifest, engine, context, region.core.relative_to(box)))

    def whole() -> NDArray[Any]:
        return np.asarray(np.rint(np.concatenate(filled, axis=-1) * white), planes.dtype)

    return await asyncio.to_thread(whole), box


def _blend(
    target: NDArray[Any], picture: NDArray[Any], filled: NDArray[Any], shown: NDArray[np.float32], hole: Mask
) -> None:
    """Write to `target` a mixture of `picture` and `filled`, all (height, width, channels), where there is a hole.

    Boxes of two holes may overlap: what is written last is seen, and mixed as if it were written once.
    """
    mixture = np.rint(picture * (1 - shown) + filled * shown).astype(target.dtype)
    target[hole] = np.where(shown >= 1, filled, mixture)[hole]


def _premultiply(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint16]:
    """Return color times opacity, and opacity, as 16 bit: what is seen through has no color to spread."""
    white = np.float32(np.iinfo(pixels.dtype).max)
    opacity = alpha[..., None].astype(np.float32) / white
    planes = np.concatenate([pixels / white * opacity, opacity], axis=-1)
    return np.asarray(np.rint(planes * 65535), np.uint16)


def _unpremultiply(planes: NDArray[Any], white: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return color and opacity again, on the scale of `white`."""
    opacity = planes[..., -1:].astype(np.float32)
    color = planes[..., :-1] / np.maximum(opacity, 1)
    kind = np.uint8 if white == 255 else np.uint16
    return (
        np.rint(np.clip(color, 0, 1) * white).astype(kind),
        np.rint(opacity[..., 0] / 65535 * white).astype(kind),
    )


def _check(options: InpaintOptions, sizes: Sizes, engine: Engine) -> None:  # noqa: ARG001
    """Raise MissingField or ConflictingFields for fields that do not go together."""
    if options.mask_from == "file" and "mask" not in sizes:
        text = "The file field mask is missing: white is what to fill. Or set mask_from=alpha."
        raise MissingField(text, field="mask")
    if options.mask_from == "alpha" and "mask" in sizes:
        raise ConflictingFields("mask and mask_from=alpha exclude each other: send one of them.", field="mask_from")
    # A field with its default value is no choice: Swagger UI and many a page send every field.
    has_radius = options.method in ("auto", "telea", "ns")
    if not has_radius and options.radius != InpaintOptions.model_fields["radius"].default:
        text = f"method={options.method} has no radius."
        raise ConflictingFields(text, field="radius", value=options.radius)
    if options.model.strip() and not options.uses_device:
        text = f"method={options.method} works without a model: leave the field out."
        raise ConflictingFields(text, field="model", value=options.model)


def _outline(options: InpaintOptions, pictures: Mapping[str, Picture]) -> Picture:
    """Return a picture of the kind that is answered: transparent parts that are filled become opaque."""
    picture = pictures["image"]
    return picture.with_pixels(picture.pixels, None) if options.mask_from == "alpha" else picture


def _probe(manifest: Manifest, picture: Picture) -> tuple[InpaintOptions, dict[str, Picture]]:
    hole = np.zeros((picture.height, picture.width, 1), np.uint8)
    hole[picture.height // 3 : picture.height // 2, picture.width // 3 : picture.width // 2] = 255
    method: Literal["dcgan", "neural"] = "dcgan" if "search" in manifest.signatures else "neural"
    return InpaintOptions(method=method, model=manifest.versioned_name), {"mask": Picture(hole)}


TASK = Task(
    name="inpaint",
    summary="Fill what a mask marks as missing: scratches, stamps, objects",
    options=InpaintOptions,
    run=inpaint,
    check=_check,
    outline=_outline,
    probe=_probe,
    pictures={
        "mask": "What to fill: white (any value but zero; in lossy files, more than an eighth) is missing. As large as "
        "the picture, upright; it is never resized."
    },
    problems=("conflicting-fields", "mask-size", "mask-empty", "mask-full", "work-too-large"),
)
