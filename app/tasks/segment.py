"""What a picture shows, pixel by pixel: as a mask, cut out, drawn over it, or as a table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from app.engine.protocol import Engine, InferenceRequest, RequestContext
from app.errors import ConflictingFields, InvalidField, ModelUnavailable, UnknownClass, nearest
from app.imaging import guided_filter, matting
from app.imaging.guided_filter import Floats
from app.imaging.picture import Picture
from app.tasks.answer import Answer
from app.tasks.tiled import Stopwatch, plan_for, signature_of, through
from models.manifest import Class, Manifest

Color = tuple[int, int, int]

UNNAMED = 255
"""The id, in a mask, of what belongs to none of the classes asked for, where the model has no class for the rest."""


@dataclass(frozen=True, slots=True)
class SegmentWish:
    """`classes` are names or ids, none for all; `background` is a colour, a picture, or None for transparent."""

    model: str | None = None
    output: Literal["mask", "cutout", "overlay", "json"] = "mask"
    threshold: float | None = None
    classes: tuple[str, ...] = ()
    background: Color | Picture | None = None
    opacity: float = 0.5


Rows = Callable[[slice], Floats]
"""The probabilities of some rows of the picture, (rows, width, classes); of the foreground alone for a binary model."""


async def segment(picture: Picture, wish: SegmentWish, engine: Engine, context: RequestContext) -> Answer:
    """Return the picture's mask, cut-out, overlay or table, at its own size.

    Raises UnknownModel, UnknownClass, InvalidField, ConflictingFields, ModelUnavailable and what the engine raises.
    """
    for name, value in (("threshold", wish.threshold), ("opacity", wish.opacity)):
        if value is not None and not 0 <= value <= 1:
            raise InvalidField(f"{name} is {value:g}; it must lie between 0 and 1.", field=name, value=value)
    watch = Stopwatch(context)
    manifest, chosen = check(wish, engine, behind=wish.background is not None)
    signature = signature_of(manifest, "segment")
    binary = _binary(manifest)
    threshold = 0.5 if wish.threshold is None else wish.threshold
    rows, applied = await _probabilities(picture, manifest, engine, context)
    found = _Found(picture, rows, manifest.classes, chosen, threshold, binary)
    applied |= {"precision": signature.precision}
    if binary:
        applied["threshold"] = f"{threshold:g}"
    if wish.output == "json":
        table = await asyncio.to_thread(_table, found)
        return Answer(picture, manifest.id, applied, watch.seconds(), table=table)
    if wish.output == "mask":
        result = await asyncio.to_thread(_mask, found)
    elif wish.output == "overlay":
        result = await asyncio.to_thread(_overlay, found, wish.opacity)
    else:
        result = await asyncio.to_thread(_cutout, found, wish.background)
    if wish.output != "mask" and picture.metadata.icc and not result.metadata.icc:
        applied["icc"] = "dropped"
    return Answer(result, manifest.id, applied, watch.seconds())


def check(wish: SegmentWish, engine: Engine, *, behind: bool) -> tuple[Manifest, list[Class]]:
    """Return the model and the classes that are asked for; `behind`: a background was named.

    Raises UnknownModel, UnknownClass, InvalidField, ConflictingFields, ModelUnavailable.
    """
    if behind and wish.output != "cutout":
        text = f"A background goes behind a cut-out; output={wish.output} has none."
        raise ConflictingFields(text, field="background", value=wish.output)
    manifest = engine.find("segment", wish.model)
    if wish.threshold is not None and not _binary(manifest):
        text = f"The model {manifest.id} tells {len(manifest.classes)} classes apart and knows no threshold."
        raise InvalidField(text, field="threshold", value=wish.threshold)
    return manifest, _chosen(manifest, wish.classes)


def _binary(manifest: Manifest) -> bool:
    return signature_of(manifest, "segment").outputs["probabilities"].shape[-1] == 1


def _chosen(manifest: Manifest, wanted: Sequence[str]) -> list[Class]:
    """Return the classes asked for, all of them for none. Raises UnknownClass."""
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
) -> tuple[Rows, dict[str, str]]:
    """Return where probabilities come from, and what was decided. The manifest says which way."""
    if manifest.geometry.kind == "tiled":
        plan = await plan_for(picture, manifest, "segment")
        whole = await through(
            picture, plan, manifest, "segment", engine, context, output="probabilities", dtype=np.uint16
        )
        return lambda rows: whole[rows].astype(np.float32) / np.float32(65535), {"tiles": str(len(plan.tiles))}
    if manifest.geometry.kind != "canonical":
        text = f"The model {manifest.id} takes pictures in a way that this task cannot use."
        raise ModelUnavailable(text, field="model", value=manifest.id)
    size = manifest.geometry.nearest_size(picture.height, picture.width)
    small = await asyncio.to_thread(_reduced, picture.pixels, size)
    request = InferenceRequest(manifest.id, "segment", {"image": small[None]}, context, size[0] * size[1])
    context.progress.expect(1)
    answer = (await engine.run(request))["probabilities"][0]
    context.progress.step()
    if not np.isfinite(answer).all():
        raise ModelUnavailable(f"The model {manifest.id} gave values that are no numbers.", value=manifest.id)
    guided = await asyncio.to_thread(guided_filter.fit, answer, small)
    full = picture.height, picture.width
    return lambda rows: guided_filter.apply(guided, picture.pixels[rows], rows, full), {"size": f"{size[1]}x{size[0]}"}


def _reduced(pixels: NDArray[Any], size: tuple[int, int]) -> Floats:
    """Return `pixels` as float32 (*size, 3) in [0, 1]."""
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    # OpenCV's area averaging works on whole sides only where both shrink; enlarging, it would repeat pixels.
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    white = np.float32(np.iinfo(pixels.dtype).max)
    resized = np.atleast_3d(cv2.resize(pixels, size[::-1], interpolation=how)).astype(np.float32) / white
    return np.repeat(resized, 3, axis=-1) if resized.shape[-1] == 1 else resized


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found in a picture: everything that an output needs, row by row."""

    picture: Picture
    rows: Rows
    classes: Sequence[Class]
    chosen: Sequence[Class]
    threshold: float
    binary: bool

    @property
    def rest(self) -> int:
        """The id of what was not asked for: the model's own background where it has one."""
        return 0 if self.binary or self.classes[0].name == "background" else UNNAMED

    @property
    def subjects(self) -> list[Class]:
        """The chosen classes without a background, unless that was all that was asked for."""
        return [one for one in self.chosen if one.name != "background"] or list(self.chosen)

    def strips(self, least: int = 16) -> Iterator[slice]:
        """Yield the picture's rows, a strip of at least `least` at a time."""
        return guided_filter.split_rows(self.picture.height, self.picture.width, least)

    def ids(self, rows: slice) -> NDArray[np.uint8]:
        """Return the class of each pixel, (rows, width)."""
        found = self.rows(rows)
        if self.binary:
            ids = (found[..., 0] >= self.threshold).astype(np.uint8)
        else:
            table = np.array([one.id for one in self.classes], np.uint8)
            ids = table[found.argmax(axis=-1)]
        if len(self.chosen) < len(self.classes):
            kept = np.full(256, self.rest, np.uint8)
            for one in self.chosen:
                kept[one.id] = one.id
            ids = kept[ids]
        return ids

    def alpha(self, rows: slice) -> Floats:
        """Return the opacity of the subjects, (rows, width), 0 to 1."""
        found = self.rows(rows)
        if self.binary:
            inside = any(one.id == 1 for one in self.subjects)
            opaque = matting.compute_alpha(found[..., 0], self.threshold)
            return opaque if inside else 1 - opaque
        places = [place for place, one in enumerate(self.classes) if one in self.subjects]
        return matting.compute_alpha(found[..., places].sum(axis=-1), 0.5)


def _mask(found: _Found) -> Picture:
    picture = found.picture
    ids = np.empty((picture.height, picture.width, 1), np.uint8)
    for rows in found.strips():
        ids[rows, :, 0] = found.ids(rows)
    if found.binary:
        return Picture(ids * 255)
    return Picture(ids, palette={one.id: (one.name, one.color) for one in found.classes})


def _overlay(found: _Found, opacity: float) -> Picture:
    picture = _in_colour(found.picture)
    share = np.zeros(256, np.float32)
    colours = np.zeros((256, 3), np.float32)
    for one in found.subjects:
        share[one.id], colours[one.id] = opacity, np.array(one.color, np.float32) * (picture.maximum / 255)
    pixels = np.empty_like(picture.pixels)
    for rows in found.strips():
        ids = found.ids(rows)
        weight = share[ids][..., None]
        pixels[rows] = np.rint(picture.pixels[rows] * (1 - weight) + colours[ids] * weight)
    return picture.with_pixels(pixels, picture.alpha)


def _cutout(found: _Found, backdrop: Color | Picture | None) -> Picture:
    picture = found.picture
    white = np.float32(picture.maximum)
    if backdrop is not None and not (isinstance(backdrop, Picture) and backdrop.channels == 1):
        picture = _in_colour(picture)
    radius = max(8, round(math.sqrt(picture.height * picture.width) / 48))
    alpha = np.empty((picture.height, picture.width), picture.pixels.dtype)
    pixels = np.empty_like(picture.pixels)
    behind = None if backdrop is None else _backdrop(backdrop, picture)
    for rows in found.strips():
        alpha[rows] = np.rint(found.alpha(rows) * white)
    alpha = matting.harden_alpha(alpha, radius)
    own = alpha.copy()  # what is written to one strip is around the next
    for rows in found.strips(least=radius):
        # With surroundings, so that the colours of an edge do not know where strips end.
        around = slice(max(0, rows.start - radius), min(picture.height, rows.stop + radius))
        inner = slice(rows.start - around.start, rows.stop - around.start)
        opaque = own[around].astype(np.float32) / white
        colours = matting.estimate_foreground(picture.pixels[around].astype(np.float32) / white, opaque, radius)
        part = opaque[inner]
        if picture.alpha is not None:
            part = part * (picture.alpha[rows].astype(np.float32) / white)
        exact = np.where(part[..., None] >= 1, picture.pixels[rows], np.rint(colours[inner] * white))
        if behind is None:
            pixels[rows], alpha[rows] = exact, np.rint(part * white)
        else:
            weight = part[..., None]
            back = behind(rows) * (1 - weight)
            whole = weight + back[..., -1:] / white
            mixed = (exact * weight + back[..., :-1]) / np.maximum(whole, 1 / white)
            pixels[rows], alpha[rows] = np.rint(np.minimum(mixed, white)), np.rint(whole[..., 0] * white)
    seen_through = behind is None or (isinstance(backdrop, Picture) and backdrop.alpha is not None)
    return picture.with_pixels(pixels, alpha if seen_through else None)


def _backdrop(background: Color | Picture, picture: Picture) -> Callable[[slice], Floats]:
    """Return what gives rows of the background, float32 (rows, width, channels + 1) on the picture's scale: colours,
    premultiplied, and opacity.

    A picture is enlarged or reduced to cover, its middle shown.
    """
    if not isinstance(background, Picture):
        colour = np.array([*background, 255], np.float32) * (picture.maximum / 255)
        return lambda rows: np.broadcast_to(colour, (rows.stop - rows.start, picture.width, 4))
    factor = max(picture.height / background.height, picture.width / background.width)
    tall = min(background.height, max(1, round(picture.height / factor)))
    wide = min(background.width, max(1, round(picture.width / factor)))
    top, left = (background.height - tall) // 2, (background.width - wide) // 2
    middle = np.s_[top : top + tall, left : left + wide]
    planes = np.repeat(background.pixels[middle], picture.channels // background.channels, axis=-1)
    opacity = np.full((tall, wide), background.maximum, planes.dtype)
    if background.alpha is not None:
        opacity = background.alpha[middle]
        planes = cv2.multiply(
            planes, np.repeat(opacity[..., None], planes.shape[-1], axis=-1), scale=1 / background.maximum
        )
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    fitted = cv2.resize(np.dstack([planes, opacity]), (picture.width, picture.height), interpolation=how)
    scale = np.float32(picture.maximum / background.maximum)
    return lambda rows: fitted[rows].astype(np.float32) * scale


def _in_colour(picture: Picture) -> Picture:
    """Return a grey picture as RGB, without its profile, which is for grey; any other as it is."""
    if picture.channels == 3:
        return picture
    coloured = picture.with_pixels(np.repeat(picture.pixels, 3, axis=-1), picture.alpha)
    return replace(coloured, metadata=replace(picture.metadata, icc=None))


def _table(found: _Found) -> dict[str, Any]:
    picture = found.picture
    counts = np.zeros(256, np.int64)
    boxes: dict[int, list[int]] = {}
    for rows in found.strips():
        ids = found.ids(rows)
        counts += np.bincount(ids.ravel(), minlength=256)
        for one in found.chosen:
            tall, wide = np.flatnonzero((ids == one.id).any(axis=1)), np.flatnonzero((ids == one.id).any(axis=0))
            if tall.size:
                box = [int(wide[0]), rows.start + int(tall[0]), int(wide[-1]) + 1, rows.start + int(tall[-1]) + 1]
                old = boxes.get(one.id, box)
                boxes[one.id] = [min(old[0], box[0]), min(old[1], box[1]), max(old[2], box[2]), max(old[3], box[3])]
    total = picture.height * picture.width
    return {
        "width": picture.width,
        "height": picture.height,
        "classes": [
            {
                "id": one.id,
                "name": one.name,
                "color": "#{:02x}{:02x}{:02x}".format(*one.color),
                "pixels": int(counts[one.id]),
                "fraction": int(counts[one.id]) / total,
                "box": boxes.get(one.id),
            }
            for one in found.chosen
        ],
    }
