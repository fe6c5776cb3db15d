"""What a mask marks as missing, filled from what is around it."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Engine, RequestContext
from app.errors import ConflictingFields, InvalidField, MaskEmpty, MaskFull, MaskSize, UnknownModel, WorkTooLarge
from app.imaging import classical_inpaint, holes
from app.imaging.holes import Mask, Region
from app.imaging.picture import Picture
from app.imaging.tiles import Box
from app.tasks.answer import Answer
from app.tasks.filling import fill, reach, search
from app.tasks.tiled import Stopwatch, check_size, kept_in_order
from models.manifest import Manifest

MOST_WORK = 250_000_000
"""Missing pixels × radius² that Telea and Navier-Stokes may be asked for: half a minute of a core."""
LEAST_RADIUS = 7
"""Below this radius a pixel costs as much as with it."""
MOST_SMOOTH = 160_000
"""Missing pixels that the biharmonic method solves for at once: eight seconds and most of a gigabyte."""
MOST_SMOOTH_IN_ALL = 2_000_000
SCRATCH = 8
"""Up to so many pixels across, `auto` takes the biharmonic method without a model: `python -m benchmarks.inpaint`."""
MARGIN = 2 * holes.THIN
"""Pixels around a hole that its filling may depend on, beside the radius."""
FAINT = 31
"""What a lossy mask may have, of 255, where its author meant black."""


@dataclass(frozen=True, slots=True)
class InpaintWish:
    """`mask` is white where the picture is missing; None: where the picture is not opaque. Lengths in pixels.

    `model` is for `neural`, `dcgan` and `auto`.
    """

    mask: Picture | None
    method: Literal["auto", "neural", "dcgan", "telea", "ns", "biharmonic"] = "auto"
    model: str | None = None
    radius: int = 3
    dilate: int = 0
    feather: int = 0


Method = Literal["neural", "dcgan"] | classical_inpaint.Method
SIGNATURES: dict[str, str] = {"auto": "inpaint", "neural": "inpaint", "dcgan": "search"}
"""What a method asks of its model."""


async def inpaint(picture: Picture, wish: InpaintWish, engine: Engine, context: RequestContext) -> Answer:
    """Return the picture with its holes filled; every pixel that is not in or near a hole as it was.

    Raises MaskSize, MaskEmpty, MaskFull, ConflictingFields, InvalidField, WorkTooLarge, UnknownModel, WrongSize,
    ModelUnavailable and what the engine raises.
    """
    for name, value, least in (("radius", wish.radius, 1), ("dilate", wish.dilate, 0), ("feather", wish.feather, 0)):
        if not least <= value <= 64:
            raise InvalidField(f"{name} is {value}; it must lie between {least} and 64.", field=name, value=value)
    watch = Stopwatch(context)
    manifest = _model(wish, engine)
    work, plan = await asyncio.to_thread(_planned, picture, wish, manifest)

    async def one(part: tuple[Region, Method]) -> _Filled:
        region, method = part
        if method == "neural" or method == "dcgan":
            assert manifest is not None
            return await _by_model(work, region, method, manifest, engine, context)
        return await asyncio.get_running_loop().run_in_executor(_pool(method), _classical, work, region, method)

    async def keep(part: tuple[Region, Method], filled: _Filled) -> None:
        await asyncio.to_thread(work.keep, *filled, part[0].core)
        context.progress.step()

    context.progress.expect(len(plan))
    await kept_in_order(plan, one, keep)
    used = Counter(method for _, method in plan)
    applied = {
        "method": "+".join(f"{method}:{count}" for method, count in sorted(used.items())),
        "missing": str(int(np.count_nonzero(work.missing))),
    }
    model = ""
    if manifest is not None and not used.keys().isdisjoint(SIGNATURES):
        model = manifest.id
        applied["precision"] = manifest.signatures[SIGNATURES[wish.method]].precision
    return Answer(work.picture.with_pixels(work.result, work.alpha), model, applied, watch.seconds())


def _model(wish: InpaintWish, engine: Engine) -> Manifest | None:
    """Return the model for what asks for one, or may take one where there is one.

    Raises UnknownModel, and ConflictingFields for a model that is for another method.
    """
    if wish.method not in SIGNATURES:
        return None
    try:
        manifest = engine.find("inpaint", wish.model)
    except UnknownModel:
        if wish.method != "auto" or wish.model is not None:
            raise
        return None
    if wish.method == "auto" and wish.model is None and manifest.geometry.kind != "canonical":
        return None  # it may not take this picture, and nobody asked for it
    if SIGNATURES[wish.method] not in manifest.signatures:
        text = f"The model {manifest.id} is not for method={wish.method}."
        raise ConflictingFields(text, field="model", value=manifest.id)
    return manifest


def _planned(
    picture: Picture, wish: InpaintWish, manifest: Manifest | None
) -> tuple[_Work, list[tuple[Region, Method]]]:
    """Return what is to be done, region by region. Raises what `inpaint` raises of the mask, the work and the size."""
    hole = _hole(picture, wish.mask)
    if wish.mask is None:
        picture = picture.with_pixels(picture.pixels, None)  # whatever was seen through is filled
    inside = holes.dilate(hole, wish.dilate)
    missing = holes.dilate(inside, wish.feather)
    if missing.all():
        field = "feather" if wish.feather else "dilate"
        raise MaskFull("Widened, the mask marks the whole picture: there is nothing to fill from.", field=field)
    if manifest is not None and manifest.geometry.kind in ("whole", "fixed"):
        whole = Box(0, 0, picture.height, picture.width)
        regions = [Region(whole, whole)]
    else:
        regions = holes.find_regions(missing, MARGIN + 2 * wish.radius)
    methods = [_method(region, missing, wish, manifest) for region in regions]
    _check_work(regions, methods, missing, wish.radius)
    if manifest is not None and not SIGNATURES.keys().isdisjoint(methods):
        check_size(picture, manifest, manifest.signatures[SIGNATURES[wish.method]].inputs["image"].shape[-1])
    alpha = None if picture.alpha is None else picture.alpha.copy()
    work = _Work(picture, wish, inside, missing, picture.pixels.copy(), alpha)
    return work, list(zip(regions, methods, strict=True))


def _hole(picture: Picture, mask: Picture | None) -> Mask:
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
        least = FAINT * mask.maximum // 255 if mask.format in ("jpeg", "webp", "avif") else 0
        hole = np.asarray((mask.pixels > least).any(axis=-1))
        if mask.alpha is not None:
            hole &= mask.alpha > least
    if not hole.any():
        raise MaskEmpty("The mask marks nothing: no pixel of it is white.", field=field)
    if hole.all():
        raise MaskFull("The mask marks the whole picture: there is nothing to fill from.", field=field)
    return hole


def _method(region: Region, missing: Mask, wish: InpaintWish, manifest: Manifest | None) -> Method:
    if wish.method != "auto":
        return wish.method
    if manifest is not None:
        return "neural"
    scratch = holes.is_thin(missing[region.core.slices], SCRATCH)
    return "biharmonic" if scratch and _count(region, missing) <= MOST_SMOOTH else "ns"


def _count(region: Region, missing: Mask) -> int:
    return int(np.count_nonzero(missing[region.window.slices]))


def _check_work(regions: list[Region], methods: list[Method], missing: Mask, radius: int) -> None:
    """Raise WorkTooLarge for what would take longer than anybody should hold a core."""
    counts = [_count(region, missing) for region in regions]
    smooth = [count for count, method in zip(counts, methods, strict=True) if method == "biharmonic"]
    if smooth and (max(smooth) > MOST_SMOOTH or sum(smooth) > MOST_SMOOTH_IN_ALL):
        raise WorkTooLarge(
            f"The biharmonic method would solve for {max(smooth)} pixels in one hole and {sum(smooth)} in all; the "
            f"limits are {MOST_SMOOTH} and {MOST_SMOOTH_IN_ALL}. Take telea or ns, or a smaller mask.",
            field="method",
            value=max(smooth),
            limit=MOST_SMOOTH,
        )
    marched = sum(count for count, method in zip(counts, methods, strict=True) if method in ("telea", "ns"))
    work = marched * max(radius, LEAST_RADIUS) ** 2
    if work > MOST_WORK:
        raise WorkTooLarge(
            f"{marched} missing pixels × radius² ({radius}, at least {LEAST_RADIUS}) are {work}; the limit is "
            f"{MOST_WORK}. Take a smaller radius or mask.",
            field="radius",
            value=work,
            limit=MOST_WORK,
        )


@functools.cache
def _pool(method: classical_inpaint.Method) -> ThreadPoolExecutor:
    """Return the one thread of a method: it holds up no other, nor what decodes, encodes or feeds the device."""
    return ThreadPoolExecutor(1, thread_name_prefix=method)


@dataclass(frozen=True, slots=True)
class _Work:
    """A picture with holes, and what becomes of it: `result` and `alpha` are written region by region.

    `missing` is made up; of that, all is seen `inside`, and the rest fades.
    """

    picture: Picture
    wish: InpaintWish
    inside: Mask
    missing: Mask
    result: NDArray[Any]
    alpha: NDArray[Any] | None

    def planes(self, box: Box) -> tuple[NDArray[Any], Mask]:
        """Return what is to be filled in `box`, (height, width, planes), and where; with opacity, premultiplied."""
        pixels, hole = self.picture.pixels[box.slices], np.ascontiguousarray(self.missing[box.slices])
        if self.picture.alpha is None:
            return np.ascontiguousarray(pixels), hole
        return _premultiplied(pixels, self.picture.alpha[box.slices]), hole

    def keep(self, filled: NDArray[Any], box: Box, core: Box) -> None:
        """Write what is missing in `core`, which lies in `box`; `filled` are the planes of `box`."""
        part, within = core.slices, core.relative_to(box).slices
        shown = holes.feather(np.ascontiguousarray(self.inside[box.slices]), self.wish.feather)[within][..., None]
        hole, colours = self.missing[part], filled[within]
        if self.alpha is not None and self.picture.alpha is not None:
            colours, opaque = _divided(colours, self.picture.maximum)
            _blend(self.alpha[part][..., None], self.picture.alpha[part][..., None], opaque[..., None], shown, hole)
        _blend(self.result[part], self.picture.pixels[part], colours, shown, hole)


_Filled = tuple[NDArray[Any], Box]
"""The planes of a box after what is missing in it was filled, and the box."""


def _classical(work: _Work, region: Region, method: classical_inpaint.Method) -> _Filled:
    planes, hole = work.planes(region.window)
    return classical_inpaint.fill(planes, hole, method, work.wish.radius), region.window


async def _by_model(
    work: _Work,
    region: Region,
    method: Literal["neural", "dcgan"],
    manifest: Manifest,
    engine: Engine,
    context: RequestContext,
) -> _Filled:
    box = holes.expand_box(region.core, reach(region.core), work.missing.shape)
    planes, hole = await asyncio.to_thread(work.planes, box)
    white = np.float32(np.iinfo(planes.dtype).max)
    colours = work.picture.channels
    filled = []
    for part in (planes[..., :colours], planes[..., colours:]):
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


def _premultiplied(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint16]:
    """Return colour times opacity, and opacity, as 16 bit: what is seen through has no colour to spread."""
    white = np.float32(np.iinfo(pixels.dtype).max)
    opacity = alpha[..., None].astype(np.float32) / white
    planes = np.concatenate([pixels / white * opacity, opacity], axis=-1)
    return np.asarray(np.rint(planes * 65535), np.uint16)


def _divided(planes: NDArray[Any], white: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return colour and opacity again, on the scale of `white`."""
    opacity = planes[..., -1:].astype(np.float32)
    colour = planes[..., :-1] / np.maximum(opacity, 1)
    kind = np.uint8 if white == 255 else np.uint16
    return (
        np.rint(np.clip(colour, 0, 1) * white).astype(kind),
        np.rint(opacity[..., 0] / 65535 * white).astype(kind),
    )
