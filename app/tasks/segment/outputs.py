"""Turns a segmentation into a mask, an overlay, a cutout or a table, in strips of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging import guided_filter, matting
from app.imaging.picture import Floats, Picture
from models.manifest import Class

Color = tuple[int, int, int]
Rows = Callable[[slice], Floats]
"""Returns the probabilities for rows of the picture, (rows, width, classes); one channel for a binary model."""
UNNAMED = 255
"""The id, in a mask, of pixels of no selected class, if the model has no background class."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The classes found in a picture, by row, with the options that all outputs need."""

    picture: Picture
    rows: Rows
    classes: Sequence[Class]
    chosen: Sequence[Class]
    threshold: float
    binary: bool

    @property
    def rest(self) -> int:
        """The id of pixels of no selected class: 0 if the model has a background class, else UNNAMED."""
        return 0 if self.binary or self.classes[0].name == "background" else UNNAMED

    @property
    def subjects(self) -> list[Class]:
        """The selected classes without the background, unless only the background was selected."""
        return [one for one in self.chosen if one.name != "background"] or list(self.chosen)

    def strips(self, least: int = 16) -> Iterator[slice]:
        """Yield the rows of the picture as strips of at least `least` rows."""
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


def draw_mask(found: Segmentation) -> Picture:
    picture = found.picture
    ids = np.empty((picture.height, picture.width, 1), np.uint8)
    for rows in found.strips():
        ids[rows, :, 0] = found.ids(rows)
    if found.binary:
        return Picture(ids * 255)
    return Picture(ids, palette={one.id: (one.name, one.color) for one in found.classes})


def draw_overlay(found: Segmentation, opacity: float) -> Picture:
    picture = _to_rgb(found.picture)
    share = np.zeros(256, np.float32)
    colors = np.zeros((256, 3), np.float32)
    for one in found.subjects:
        share[one.id], colors[one.id] = opacity, np.array(one.color, np.float32) * (picture.maximum / 255)
    pixels = np.empty_like(picture.pixels)
    for rows in found.strips():
        ids = found.ids(rows)
        weight = share[ids][..., None]
        pixels[rows] = np.rint(picture.pixels[rows] * (1 - weight) + colors[ids] * weight)
    return picture.with_pixels(pixels, picture.alpha)


def cut_out(found: Segmentation, backdrop: Color | Picture | None) -> Picture:
    picture = found.picture
    white = np.float32(picture.maximum)
    if backdrop is not None and not (isinstance(backdrop, Picture) and backdrop.channels == 1):
        picture = _to_rgb(picture)
    radius = max(8, round(math.sqrt(picture.height * picture.width) / 48))
    alpha = np.empty((picture.height, picture.width), picture.pixels.dtype)
    pixels = np.empty_like(picture.pixels)
    behind = None if backdrop is None else _backdrop(backdrop, picture)
    for rows in found.strips():
        alpha[rows] = np.rint(found.alpha(rows) * white)
    alpha = matting.harden_alpha(alpha, radius)
    own = alpha.copy()  # the surroundings of a strip must not be changed by the strip before
    for rows in found.strips(least=radius):
        # With surroundings, so that colors at an edge do not depend on where strips end.
        around = slice(max(0, rows.start - radius), min(picture.height, rows.stop + radius))
        inner = slice(rows.start - around.start, rows.stop - around.start)
        opaque = own[around].astype(np.float32) / white
        colors = matting.estimate_foreground(picture.pixels[around].astype(np.float32) / white, opaque, radius)
        part = opaque[inner]
        if picture.alpha is not None:
            part = part * (picture.alpha[rows].astype(np.float32) / white)
        exact = np.where(part[..., None] >= 1, picture.pixels[rows], np.rint(colors[inner] * white))
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
    """Return a function that returns rows of the background: float32 (rows, width, channels + 1) with premultiplied
    colors and opacity, from 0 to the picture's maximum.

    A background picture is scaled to cover the whole picture and cropped around its center.
    """
    if not isinstance(background, Picture):
        color = np.array([*background, 255], np.float32) * (picture.maximum / 255)
        return lambda rows: np.broadcast_to(color, (rows.stop - rows.start, picture.width, 4))
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


def _to_rgb(picture: Picture) -> Picture:
    """Return a gray picture as RGB without its gray profile; others unchanged."""
    if picture.channels == 3:
        return picture
    colored = picture.with_pixels(np.repeat(picture.pixels, 3, axis=-1), picture.alpha)
    return replace(colored, metadata=replace(picture.metadata, icc=None))


def make_table(found: Segmentation) -> dict[str, Any]:
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
