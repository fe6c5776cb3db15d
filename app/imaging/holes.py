"""Holes in a picture: where they are, how they grow, and which part of the picture is worked on for each.

Work follows the holes, not the picture: a mask of a large scan becomes small regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.tiles import Box

Mask = NDArray[np.bool_]

CELL = 16
"""Holes are told apart on a grid of squares of so many pixels."""
LARGE = 512
"""A thin hole with a longer side than this is worked on in parts of this side, unless told otherwise."""
THIN = 32
"""What is nowhere thicker than so many pixels is thin."""
STRIP = 1024
"""Rows that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the picture: what is missing within `core` is filled by what `around` shows."""

    core: Box
    around: Box


def regions(missing: Mask, margin: int, large: int = LARGE) -> list[Region]:
    """Return regions whose cores hold every pixel of `missing` (height, width), in reading order.

    What is nearer than `margin` is one hole. A core's surroundings reach `margin` pixels further, as far as the
    picture goes. A thin hole that is long is cut into parts: whatever fills it looks no further than the margin.
    """
    cells, count, labels = _labelled(missing, margin)
    cores, strung = [], np.zeros(count, bool)
    for label, box in _boxes(missing, cells, labels, count):
        strung[label] = max(box.height, box.width) > large and thin(missing[box.slices], THIN)
        if not strung[label]:
            cores.append(box)
    if strung.any():
        # All at once: the boxes of long scratches may lie over each other.
        theirs = strung[labels].repeat(CELL, axis=0).repeat(CELL, axis=1)
        theirs = theirs[: missing.shape[0], : missing.shape[1]] & missing
        cores += _parts(theirs, large)
    found = [Region(core, widened(core, margin, missing.shape)) for core in cores]
    return sorted(found, key=lambda one: (one.core.top, one.core.left))


def thin(missing: Mask, pixels: int) -> bool:
    """Return whether `missing` is nowhere thicker than so many pixels, across and along: no larger square fits in."""
    padded = cv2.copyMakeBorder(missing.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((pixels + 1, pixels + 1), np.uint8)
    return not cv2.erode(padded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).any()


def widened(box: Box, margin: int, size: tuple[int, ...]) -> Box:
    """Return `box` with `margin` pixels to each side, as far as a picture of `size` (height, width) goes."""
    return Box(
        max(0, box.top - margin),
        max(0, box.left - margin),
        min(size[0], box.bottom + margin),
        min(size[1], box.right + margin),
    )


def grown(missing: Mask, pixels: int) -> Mask:
    """Return `missing` with everything within `pixels` of it, as the crow flies."""
    if pixels == 0:
        return missing
    result = missing.copy()
    for top in range(0, len(missing), STRIP):
        # In strips: the distances of a large picture take four times its mask.
        begin, end = max(0, top - pixels), min(len(missing), top + STRIP + pixels)
        around = missing[begin:end]
        if around.any():
            near = _distance(around) <= pixels
            result[top : top + STRIP] = near[top - begin : top - begin + STRIP]
    return result


def weights(missing: Mask, feather: int) -> NDArray[np.float32]:
    """Return how much of the filling is seen: 1 in `missing`, falling to 0 beyond `feather` pixels from it."""
    return np.asarray(np.clip(1 - _distance(missing) / (feather + 1), 0, 1), np.float32)


def halved(image: NDArray[np.float32], missing: Mask) -> tuple[NDArray[np.float32], Mask]:
    """Return `image` (height, width, channels) and its hole at half the size, sides rounded up.

    A pixel has the mean of what is known of its four, and is missing where nothing is.
    """
    height, width = missing.shape
    odd = ((0, height % 2), (0, width % 2))
    known = np.pad((~missing).astype(np.float32), odd)[..., None]
    colours = np.pad(image, (*odd, (0, 0))) * known
    total, count = (np.sum([part[i::2, j::2] for i in range(2) for j in range(2)], axis=0) for part in (colours, known))
    return np.asarray(total / np.maximum(count, 1), np.float32), np.asarray(count[..., 0] == 0)


def rim(missing: Mask, width: int) -> Mask:
    """Return what of `missing` lies within `width` pixels of something known."""
    depth = cv2.distanceTransform(missing.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(missing & (depth <= width))


def _distance(missing: Mask) -> NDArray[np.float32]:
    """Return the distance of each pixel to the nearest that is missing; there must be one."""
    known = np.ascontiguousarray(~missing).view(np.uint8)
    return np.asarray(cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _labelled(missing: Mask, margin: int) -> tuple[NDArray[np.bool_], int, NDArray[np.int32]]:
    """Return which cells have a hole, and the number of holes + 1 and the label, from 1, of each of these cells."""
    height, width = missing.shape
    counts = np.add.reduceat(missing, np.arange(0, height, CELL), axis=0, dtype=np.int32)
    cells = np.add.reduceat(counts, np.arange(0, width, CELL), axis=1) > 0
    reach = -(-margin // (2 * CELL))
    near = cv2.dilate(cells.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, labels = cv2.connectedComponents(near, connectivity=8)
    return cells, count, np.where(cells, labels, 0).astype(np.int32)


def _boxes(missing: Mask, cells: NDArray[np.bool_], labels: NDArray[np.int32], count: int) -> Iterator[tuple[int, Box]]:
    """Yield the label of each hole with a box around it, no larger than it must be."""
    rows, columns = np.nonzero(cells)
    least, most = np.full((count, 2), max(missing.shape)), np.zeros((count, 2), np.intp)
    places = np.stack([rows, columns], axis=1)
    np.minimum.at(least, labels[rows, columns], places)
    np.maximum.at(most, labels[rows, columns], places)
    for label in range(1, count):
        top, left = (int(place) * CELL for place in least[label])
        bottom, right = ((int(place) + 1) * CELL for place in most[label])
        yield label, _trimmed(missing, Box(top, left, min(bottom, missing.shape[0]), min(right, missing.shape[1])))


def _parts(missing: Mask, large: int) -> Iterator[Box]:
    """Yield boxes of at most `large` a side in which something is missing, together all that is."""
    height, width = missing.shape
    for top in range(0, height, large):
        for left in range(0, width, large):
            part = Box(top, left, min(top + large, height), min(left + large, width))
            if missing[part.slices].any():
                yield _trimmed(missing, part)


def _trimmed(missing: Mask, box: Box) -> Box:
    part = missing[box.slices]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    return Box(
        box.top + int(rows[0]), box.left + int(columns[0]), box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1
    )
