"""Turns a segmentation into a mask, an overlay, a cutout or a table, in strips of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging import color, foreground, guided_filter, matting
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
    coarseness: float = 1.0
    """The sides of the picture over those of what the network saw."""

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
        return self._decide(self.rows(rows))

    def share(self, parts: Iterable[Floats]) -> float:
        """Return the share of pixels of the subjects in probabilities of any size, (height, width, classes)."""
        wanted = [one.id for one in self.subjects]
        counts = [(np.count_nonzero(np.isin(self._decide(part), wanted)), math.prod(part.shape[:2])) for part in parts]
        inside, total = map(sum, zip(*counts, strict=True))
        return inside / total

    def _decide(self, found: Floats) -> NDArray[np.uint8]:
        """Return the class of each pixel, (h, w), by probabilities (h, w, classes)."""
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


def cut_out(found: Segmentation, backdrop: Color | Picture | None, *, hard: bool = False, shrink: int = 0) -> Picture:
    picture = found.picture
    white = np.float32(picture.maximum)
    if backdrop is not None and not (isinstance(backdrop, Picture) and backdrop.channels == 1):
        picture = _to_rgb(picture)
    pixels, alpha = _separate(found, picture)
    if hard:
        alpha = np.where(alpha >= (found.threshold if found.binary else 0.5) * white, picture.maximum, 0)
        alpha = alpha.astype(pixels.dtype)
    alpha = matting.shrink_alpha(alpha, shrink)
    behind = None if backdrop is None else _backdrop(backdrop, picture)
    for rows in found.strips():
        part = alpha[rows].astype(np.float32) / white
        if picture.alpha is not None:
            part = part * (picture.alpha[rows].astype(np.float32) / white)
        if behind is None:
            alpha[rows] = np.rint(part * white)
            continue
        weight = part[..., None]
        back = behind(rows) * (1 - weight)
        whole = weight + back[..., -1:] / white
        mixed = (pixels[rows] * weight + back[..., :-1]) / np.maximum(whole, 1 / white)
        pixels[rows], alpha[rows] = np.rint(np.minimum(mixed, white)), np.rint(whole[..., 0] * white)
    seen_through = behind is None or (isinstance(backdrop, Picture) and backdrop.alpha is not None)
    return picture.with_pixels(pixels, alpha if seen_through else None)


def _separate(found: Segmentation, picture: Picture) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the foreground's own colors (height, width, c) and its opacity (height, width), of the picture's dtype."""
    white = np.float32(picture.maximum)
    first = np.empty((picture.height, picture.width), picture.pixels.dtype)
    for rows in found.strips():
        first[rows] = np.rint(found.alpha(rows) * white)
    first = matting.harden_alpha(first, max(8, round(math.sqrt(picture.height * picture.width) / 48)))
    first = matting.mark_edges(first, math.ceil(found.coarseness))
    refine = partial(matting.refine_opacity, radius=max(3, round(1.5 * found.coarseness)))
    edges = foreground.EdgeColors(picture.pixels, first)
    pixels, alpha = picture.pixels.copy(), first.copy()  # of which windows change each other's surroundings
    for window in edges.windows():
        opacity, colors = edges.estimate(window, refine)
        np.copyto(pixels[window], np.rint(colors * white), casting="unsafe", where=(opacity < 1)[..., None])
        alpha[window] = np.rint(opacity * white)
    return pixels, alpha


def _backdrop(background: Color | Picture, picture: Picture) -> Callable[[slice], Floats]:
    """Return a function that returns rows of the background: float32 (rows, width, channels + 1) with premultiplied
    colors and opacity, from 0 to the picture's maximum.

    A background picture is scaled to cover the whole picture, cropped around its center, and converted to the profile
    of a picture in color.
    """
    if not isinstance(background, Picture):
        plain = np.array([*background, 255], np.float32) * (picture.maximum / 255)
        return lambda rows: np.broadcast_to(plain, (rows.stop - rows.start, picture.width, 4))
    factor = max(picture.height / background.height, picture.width / background.width)
    tall = min(background.height, max(1, round(picture.height / factor)))
    wide = min(background.width, max(1, round(picture.width / factor)))
    top, left = (background.height - tall) // 2, (background.width - wide) // 2
    middle = np.s_[top : top + tall, left : left + wide]
    planes = np.repeat(background.pixels[middle], picture.channels // background.channels, axis=-1)
    if picture.channels == 3:
        source = background.metadata.icc if background.channels == 3 else None
        planes = color.convert_profile(planes, source, picture.metadata.icc)
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
