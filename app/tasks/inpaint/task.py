"""Inpainting: fill the area under a mask from its surroundings, with a model or a classical method."""

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
from app.errors import ConflictingFields, MaskEmpty, MaskFull, MaskSize, MissingField, UnknownModel
from app.imaging import classical_inpaint, grain, holes
from app.imaging.holes import Mask, Region
from app.imaging.picture import Floats, Picture
from app.imaging.tiles import Box
from app.tasks.base import Sizes, Task, TaskOptions, TaskResult
from app.tasks.concurrency import ordered_gather
from app.tasks.inpaint import exemplar
from app.tasks.inpaint.neural import fill, reach, search
from app.tasks.inpaint.plan import ModelMethod, Part, make_plan
from app.tasks.tiling import Stopwatch, check_size
from models.manifest import Manifest

LOSSY_BLACK = 31
"""Largest value, of 255, that counts as black in a mask in a lossy format."""


class InpaintOptions(TaskOptions):
    mask_from: Literal["file", "alpha"] = Field(
        "file",
        description="Source of the mask: `file` is the field `mask`; `alpha` is the transparency of the picture: all "
        "pixels that are not opaque are filled, and the result is opaque.",
        examples=["file"],
    )
    method: Literal["auto", "exemplar", "neural", "dcgan", "telea", "ns", "biharmonic"] = Field(
        "auto",
        description="`auto`: for each hole the best method: `exemplar` for wide ones, the model for thin ones, or a "
        "classical method if there is no model; `exemplar`: copies of the surroundings, best for erased objects; where "
        "too little is known to copy from, the model; `neural`: the model; `dcgan`: search for the output of a "
        "generator (by default the model `digits`) that matches the surroundings; `telea`: fast marching; `ns`: "
        "Navier-Stokes; `biharmonic`: the smoothest surface, best for small holes such as scratches. `X-Applied` has "
        "the methods that were used, each with its number of holes.",
        examples=["auto"],
    )
    radius: int = Field(
        3, ge=1, le=64, description="Radius of the surroundings that `telea` and `ns` use, in pixels.", examples=[3]
    )
    dilate: int = Field(
        0,
        ge=0,
        le=64,
        description="Pixels by which to enlarge the mask, to cover the blurred edges of an object.",
        examples=[0],
    )
    feather: int = Field(
        0,
        ge=0,
        le=64,
        description="Width in pixels of the transition from the filled area to the picture, outside the enlarged mask.",
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

    @property
    def work_kind(self) -> str:
        return self.method if self.method == "exemplar" else ""


SIGNATURES: dict[str, str] = {"auto": "inpaint", "exemplar": "inpaint", "neural": "inpaint", "dcgan": "search"}
"""The signature of the model that each method uses."""
WITHOUT_MODEL = ("auto", "exemplar")
"""Methods that use a model only if there is one."""


async def inpaint(
    picture: Picture,
    options: InpaintOptions,
    engine: Engine,
    context: RequestContext,
    *,
    mask: Picture | None = None,
) -> TaskResult:
    """Return the picture with its holes filled. Pixels outside the enlarged mask are unchanged.

    `mask` is white where the picture is missing; without one, the pixels that are not opaque are missing. Raises
    MaskSize, MaskEmpty, MaskFull, ConflictingFields, WorkTooLarge, UnknownModel, WrongSize, ModelUnavailable and errors
    of the engine.
    """
    watch = Stopwatch(context)
    manifest = _find_model(options, engine)
    work, plan = await asyncio.to_thread(_plan, picture, mask, options, manifest)

    async def one(part: Part) -> _FilledBox:
        region, method = part.region, part.method
        if method == "exemplar":
            return await _fill_by_exemplar(work, region, manifest, engine, context)
        if method == "neural" or method == "dcgan":
            assert manifest is not None
            return await _fill_by_model(work, region, method, manifest, engine, context)
        return await asyncio.get_running_loop().run_in_executor(_pool(method), _fill_classically, work, region, method)

    async def keep(part: Part, filled: _FilledBox) -> None:
        await asyncio.to_thread(work.keep, *filled, part.region.core)
        context.progress.step()

    context.progress.expect(len(plan))
    await ordered_gather(plan, one, keep)
    used = Counter(part.method for part in plan)
    decisions = {
        "method": "+".join(f"{method}:{count}" for method, count in sorted(used.items())),
        "missing": str(int(np.count_nonzero(work.missing))),
    }
    if obstacles := Counter(part.obstacle for part in plan if part.obstacle):
        decisions["not-exemplar"] = "+".join(f"{obstacle}:{count}" for obstacle, count in sorted(obstacles.items()))
    model = ""
    if manifest is not None and not used.keys().isdisjoint(SIGNATURES):
        model = manifest.id
        decisions["precision"] = context.usage.precision(SIGNATURES[options.method])
    return TaskResult(work.picture.with_pixels(work.result, work.alpha), model, decisions, watch.seconds())


def _find_model(options: InpaintOptions, engine: Engine) -> Manifest | None:
    """Return the model for the method, or None if the method needs none or `auto` finds none.

    Raises UnknownModel, and ConflictingFields if the model does not support the method.
    """
    if options.method not in SIGNATURES:
        return None
    try:
        manifest = engine.find("inpaint", options.model_name)
    except UnknownModel:
        if options.method not in WITHOUT_MODEL or options.model_name is not None:
            raise
        return None
    if options.method in WITHOUT_MODEL and options.model_name is None and manifest.geometry.kind != "canonical":
        return None  # it may not support this picture size, and the client did not ask for it
    if SIGNATURES[options.method] not in manifest.signatures:
        text = f"The model {manifest.id} does not support `method={options.method}`."
        raise ConflictingFields(text, field="model", value=manifest.id)
    return manifest


def _plan(
    picture: Picture, mask: Picture | None, options: InpaintOptions, manifest: Manifest | None
) -> tuple[_PartialResult, list[Part]]:
    """Return the picture to write to, and its parts. Raises as `inpaint` does."""
    hole = _find_hole(picture, mask)
    if mask is None:
        picture = picture.with_pixels(picture.pixels, None)  # transparent pixels are filled
    inside = holes.dilate(hole, options.dilate)
    missing = holes.dilate(inside, options.feather)
    if missing.all():
        field = "feather" if options.feather else "dilate"
        raise MaskFull(
            f"Enlarged by `{field}`, the mask covers the whole picture: nothing is left to fill from.", field=field
        )
    plan = make_plan(missing, options.method, options.radius, manifest)
    if manifest is not None and any(part.method in SIGNATURES for part in plan):
        check_size(picture, manifest, manifest.signatures[SIGNATURES[options.method]].inputs["image"].shape[-1])
    alpha = None if picture.alpha is None else picture.alpha.copy()
    work = _PartialResult(picture, options, inside, missing, picture.pixels.copy(), alpha)
    return work, plan


def _find_hole(picture: Picture, mask: Picture | None) -> Mask:
    """Return the missing pixels. Raises MaskSize, MaskEmpty, MaskFull, ConflictingFields."""
    field = "mask_from" if mask is None else "mask"
    if mask is None:
        if picture.alpha is None:
            raise ConflictingFields(
                "`mask_from=alpha` needs a picture with transparency; this one has none.", field=field
            )
        hole = picture.alpha < picture.maximum
    else:
        if (mask.height, mask.width) != (picture.height, picture.width):
            raise MaskSize(
                f"The mask is {mask.width}×{mask.height} pixels, the picture {picture.width}×{picture.height} "
                "(upright). Both must have the same size.",
                field=field,
                value=f"{mask.width}×{mask.height}",
                limit=f"{picture.width}×{picture.height}",
            )
        # In lossy formats, black is rarely exactly 0.
        least = LOSSY_BLACK * mask.maximum // 255 if mask.format in ("jpeg", "webp", "avif", "heic") else 0
        hole = np.asarray((mask.pixels > least).any(axis=-1))
        if mask.alpha is not None:
            hole &= mask.alpha > least
    if not hole.any():
        raise MaskEmpty("The mask is empty: it has no white pixels.", field=field)
    if hole.all():
        raise MaskFull("The mask covers the whole picture: nothing is left to fill from.", field=field)
    return hole


@functools.cache
def _pool(method: classical_inpaint.Method) -> ThreadPoolExecutor:
    """Return an executor with one thread for a method, so that it never blocks decoding, encoding or the device."""
    return ThreadPoolExecutor(1, thread_name_prefix=method)


@dataclass(frozen=True, slots=True)
class _PartialResult:
    """A picture that is being filled: `result` and `alpha` are written region by region.

    All pixels of `missing` are computed. Those `inside` the enlarged mask replace the picture; the others are blended
    with it.
    """

    picture: Picture
    options: InpaintOptions
    inside: Mask
    missing: Mask
    result: NDArray[Any]
    alpha: NDArray[Any] | None

    def planes(self, box: Box) -> tuple[NDArray[Any], Mask]:
        """Return the planes of `box`, (height, width, planes), and its missing pixels.

        The planes are the channels, or, for a picture with alpha, the premultiplied channels and alpha.
        """
        pixels, hole = self.picture.pixels[box.slices], np.ascontiguousarray(self.missing[box.slices])
        if self.picture.alpha is None:
            return np.ascontiguousarray(pixels), hole
        return _premultiply(pixels, self.picture.alpha[box.slices]), hole

    def keep(self, filled: NDArray[Any], box: Box, core: Box) -> None:
        """Write the missing pixels of `core`, which lies in `box`; `filled` are the filled planes of `box`."""
        part, within = core.slices, core.relative_to(box).slices
        shown = holes.feather(np.ascontiguousarray(self.inside[box.slices]), self.options.feather)[within][..., None]
        hole, colors = self.missing[part], filled[within]
        if self.alpha is not None and self.picture.alpha is not None:
            colors, opaque = _unpremultiply(colors, self.picture.maximum)
            _blend(self.alpha[part][..., None], self.picture.alpha[part][..., None], opaque[..., None], shown, hole)
        _blend(self.result[part], self.picture.pixels[part], colors, shown, hole)


_FilledBox = tuple[NDArray[Any], Box]
"""The filled planes of a box, and the box."""


def _fill_classically(work: _PartialResult, region: Region, method: classical_inpaint.Method) -> _FilledBox:
    planes, hole = work.planes(region.window)
    return classical_inpaint.fill(planes, hole, method, work.options.radius), region.window


async def _fill_by_model(
    work: _PartialResult,
    region: Region,
    method: ModelMethod,
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
) -> _FilledBox:
    box = holes.expand_box(region.core, reach(region.core), work.missing.shape)
    planes, hole = await asyncio.to_thread(work.planes, box)
    scaled = await asyncio.to_thread(_scale, planes)
    parts = _split_alpha(work, scaled)
    if method == "dcgan":
        filled = [await search(part, hole, manifest, engine, context) for part in parts]
    else:
        wanted = region.core.relative_to(box)
        filled = [await fill(part, hole, manifest, engine, context, wanted) for part in parts]
        if work.options.method == "auto":
            filled[0] = await asyncio.to_thread(_add_grain, parts[0], filled[0], hole, wanted, box)

    def whole() -> NDArray[Any]:
        white = np.float32(np.iinfo(planes.dtype).max)
        return np.asarray(np.rint(np.concatenate(filled, axis=-1) * white), planes.dtype)

    return await asyncio.to_thread(whole), box


def _add_grain(colors: Floats, filled: Floats, hole: Mask, wanted: Box, box: Box) -> Floats:
    """Return `filled` with the grain of the known `colors` in what is `wanted`; all lie in `box` of the picture."""
    found = grain.measure(colors, hole)
    if found is None or found.is_faint:
        return filled
    result, part = filled.copy(), wanted.slices
    result[part] = grain.add(filled[part], hole[part], found, box.top + wanted.top, box.left + wanted.left)
    return result


async def _fill_by_exemplar(
    work: _PartialResult, region: Region, manifest: Manifest | None, engine: Engine, context: RequestContext
) -> _FilledBox:
    planes, unknown = await asyncio.to_thread(work.planes, region.window)
    core = region.core.relative_to(region.window)
    guide = None
    if manifest is not None:
        scaled = await asyncio.to_thread(_scale, planes)
        parts = [
            await exemplar.make_guide(part, unknown, core, manifest, engine, context)
            for part in _split_alpha(work, scaled)
        ]
        guide = np.concatenate(parts, axis=-1)
    has_alpha = work.picture.alpha is not None
    return await exemplar.fill(planes, unknown, core, guide, has_alpha, engine, context), region.window


def _scale(planes: NDArray[Any]) -> Floats:
    """Return `planes` as float32 in [0, 1]."""
    return np.asarray(np.multiply(planes, 1 / np.float32(np.iinfo(planes.dtype).max), dtype=np.float32))


def _split_alpha(work: _PartialResult, planes: Floats) -> list[Floats]:
    """Return the colors and, for a picture with alpha, the alpha of `planes` (height, width, planes)."""
    colors = work.picture.channels
    return [part for part in (planes[..., :colors], planes[..., colors:]) if part.shape[-1]]


def _blend(
    target: NDArray[Any], picture: NDArray[Any], filled: NDArray[Any], shown: NDArray[np.float32], hole: Mask
) -> None:
    """Write a mixture of `picture` and `filled` to the pixels `hole` of `target`, all (height, width, channels).

    The mixture does not depend on `target`, so where boxes of two holes overlap, the last one written counts.
    """
    mixture = np.rint(picture * (1 - shown) + filled * shown).astype(target.dtype)
    target[hole] = np.where(shown >= 1, filled, mixture)[hole]


def _premultiply(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint16]:
    """Return premultiplied colors and alpha as uint16, so that colors of transparent pixels do not spread."""
    white = np.float32(np.iinfo(pixels.dtype).max)
    opacity = alpha[..., None].astype(np.float32) / white
    planes = np.concatenate([pixels / white * opacity, opacity], axis=-1)
    return np.asarray(np.rint(planes * 65535), np.uint16)


def _unpremultiply(planes: NDArray[Any], white: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return colors and alpha with values from 0 to `white`."""
    opacity = planes[..., -1:].astype(np.float32)
    color = planes[..., :-1] / np.maximum(opacity, 1)
    kind = np.uint8 if white == 255 else np.uint16
    return (
        np.rint(np.clip(color, 0, 1) * white).astype(kind),
        np.rint(opacity[..., 0] / 65535 * white).astype(kind),
    )


def _check(options: InpaintOptions, sizes: Sizes, engine: Engine) -> None:  # noqa: ARG001
    """Raise MissingField or ConflictingFields for options that cannot be combined."""
    if options.mask_from == "file" and "mask" not in sizes:
        text = "The file field `mask` is missing. Send a mask that is white where to fill, or set `mask_from=alpha`."
        raise MissingField(text, field="mask")
    if options.mask_from == "alpha" and "mask" in sizes:
        raise ConflictingFields("Send either `mask` or `mask_from=alpha`, not both.", field="mask_from")
    # A default value does not count as set: Swagger UI and many web forms send every field.
    has_radius = options.method in ("auto", "telea", "ns")
    if not has_radius and options.radius != InpaintOptions.model_fields["radius"].default:
        text = f"`method={options.method}` has no radius. Remove `radius`."
        raise ConflictingFields(text, field="radius", value=options.radius)
    if options.model.strip() and not options.uses_device:
        text = f"`method={options.method}` uses no model. Remove `model`."
        raise ConflictingFields(text, field="model", value=options.model)


def _outline(options: InpaintOptions, pictures: Mapping[str, Picture]) -> Picture:
    """Return a picture with the channels and alpha of the result: filled transparent areas become opaque."""
    picture = pictures["image"]
    return picture.with_pixels(picture.pixels, None) if options.mask_from == "alpha" else picture


def _probe(manifest: Manifest, picture: Picture) -> tuple[InpaintOptions, dict[str, Picture]]:
    hole = np.zeros((picture.height, picture.width, 1), np.uint8)
    hole[picture.height // 3 : picture.height // 2, picture.width // 3 : picture.width // 2] = 255
    method: Literal["dcgan", "neural"] = "dcgan" if "search" in manifest.signatures else "neural"
    return InpaintOptions(method=method, model=manifest.versioned_name), {"mask": Picture(hole)}


TASK = Task(
    name="inpaint",
    summary="Erase objects or repair scratches",
    description="Inpainting: fills the area under a mask from its surroundings. Use it to erase objects, text or "
    "stamps from a picture, and to repair scratches and tears in old photos.",
    options=InpaintOptions,
    run=inpaint,
    check=_check,
    outline=_outline,
    probe=_probe,
    pictures={
        "mask": "The area to fill, as a picture: white (any value above 0; in lossy formats, above 31 of 255) is "
        "filled. Its size must be that of the upright picture."
    },
    problems=("conflicting-fields", "mask-size", "mask-empty", "mask-full"),
)
