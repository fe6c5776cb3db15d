"""Holes in a picture: finds them, dilates them, and chooses the part of the picture to process for each.

The work depends on the holes, not on the picture: the mask of a large scan becomes a list of small regions.
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
"""Side, in pixels, of the grid cells on which separate holes are found."""
LARGE = 512
"""Thin holes with a longer side, in pixels, are by default processed in parts of at most this side."""
THIN = 32
"""A hole is thin if it is nowhere thicker than this, in pixels."""
STRIP = 1024
"""Rows that `dilate` processes at a time."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the picture: missing pixels within `core` are filled from the pixels of `window`, which contains it."""

    core: Box
    window: Box


def find_regions(missing: Mask, margin: int, large: int = LARGE) -> list[Region]:
    """Return regions whose cores contain every True pixel of `missing`, bool (height, width), top to bottom.

    Pixels nearer to each other than `margin` belong to one hole. A window extends `margin` pixels beyond its core, as
    far as the picture goes. A thin hole longer than `large` pixels is split into parts, since only the margin matters
    for it.
    """
    cells, count, labels = _label_cells(missing, margin)
    cores, is_long = [], np.zeros(count, bool)
    for label, box in _find_boxes(missing, cells, labels, count):
        is_long[label] = max(box.height, box.width) > large and is_thin(missing[box.slices], THIN)
        if not is_long[label]:
            cores.append(box)
    if is_long.any():
        # All long holes together: the boxes of long scratches may overlap.
        long_holes = is_long[labels].repeat(CELL, axis=0).repeat(CELL, axis=1)
        long_holes = long_holes[: missing.shape[0], : missing.shape[1]] & missing
        cores += _split(long_holes, large)
    regions = [Region(core, expand_box(core, margin, missing.shape)) for core in cores]
    return sorted(regions, key=lambda region: (region.core.top, region.core.left))


def is_thin(missing: Mask, pixels: int) -> bool:
    """Tell whether no square with a side of more than `pixels` fits into `missing`, bool (height, width)."""
    padded = cv2.copyMakeBorder(missing.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((pixels + 1, pixels + 1), np.uint8)
    return not cv2.erode(padded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).any()


def expand_box(box: Box, margin: int, size: tuple[int, ...]) -> Box:
    """Return `box` with `margin` pixels added on each side, clipped to a picture of `size` (height, width)."""
    return Box(
        max(0, box.top - margin),
        max(0, box.left - margin),
        min(size[0], box.bottom + margin),
        min(size[1], box.right + margin),
    )


def dilate(missing: Mask, pixels: int) -> Mask:
    """Return `missing`, bool (height, width), dilated by a disc with a radius of `pixels`."""
    if pixels == 0:
        return missing
    result = missing.copy()
    for top in range(0, len(missing), STRIP):
        # In strips: the distances of a large picture take four times the memory of its mask.
        begin, end = max(0, top - pixels), min(len(missing), top + STRIP + pixels)
        strip = missing[begin:end]
        if strip.any():
            near = _compute_distance(strip) <= pixels
            result[top : top + STRIP] = near[top - begin : top - begin + STRIP]
    return result


def feather(missing: Mask, pixels: int) -> NDArray[np.float32]:
    """Return the opacity of the filling, (height, width): 1 in `missing`, falling to 0 beyond `pixels` around it."""
    return np.asarray(np.clip(1 - _compute_distance(missing) / (pixels + 1), 0, 1), np.float32)


def downscale_by_two(image: NDArray[np.float32], missing: Mask) -> tuple[NDArray[np.float32], Mask]:
    """Return `image` (height, width, channels) and its mask at half the size, sides rounded up.

    A pixel is the mean of those of its four that are not missing; it is missing itself if all four are.
    """
    height, width = missing.shape
    odd = ((0, height % 2), (0, width % 2))
    known = np.pad((~missing).astype(np.float32), odd)[..., None]
    colors = np.pad(image, (*odd, (0, 0))) * known
    total, count = (np.sum([part[i::2, j::2] for i in range(2) for j in range(2)], axis=0) for part in (colors, known))
    return np.asarray(total / np.maximum(count, 1), np.float32), np.asarray(count[..., 0] == 0)


def find_border(missing: Mask, width: int) -> Mask:
    """Return the pixels of `missing`, bool (height, width), within `width` pixels of one that is not missing."""
    depth = cv2.distanceTransform(missing.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(missing & (depth <= width))


def _compute_distance(missing: Mask) -> NDArray[np.float32]:
    """Return the distance in pixels, (height, width), to the nearest missing pixel; there must be one."""
    known = np.ascontiguousarray(~missing).view(np.uint8)
    return np.asarray(cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _label_cells(missing: Mask, margin: int) -> tuple[NDArray[np.bool_], int, NDArray[np.int32]]:
    """Return which cells have missing pixels, the number of holes + 1, and the hole of each cell, from 1 (0: none)."""
    height, width = missing.shape
    counts = np.add.reduceat(missing, np.arange(0, height, CELL), axis=0, dtype=np.int32)
    cells = np.add.reduceat(counts, np.arange(0, width, CELL), axis=1) > 0
    reach = -(-margin // (2 * CELL))
    near = cv2.dilate(cells.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, labels = cv2.connectedComponents(near, connectivity=8)
    return cells, count, np.where(cells, labels, 0).astype(np.int32)


def _find_boxes(
    missing: Mask, cells: NDArray[np.bool_], labels: NDArray[np.int32], count: int
) -> Iterator[tuple[int, Box]]:
    """Yield (label, smallest box around it) for each hole."""
    rows, columns = np.nonzero(cells)
    first, last = np.full((count, 2), max(missing.shape)), np.zeros((count, 2), np.intp)
    positions = np.stack([rows, columns], axis=1)
    np.minimum.at(first, labels[rows, columns], positions)
    np.maximum.at(last, labels[rows, columns], positions)
    for label in range(1, count):
        top, left = (int(index) * CELL for index in first[label])
        bottom, right = ((int(index) + 1) * CELL for index in last[label])
        yield label, _trim(missing, Box(top, left, min(bottom, missing.shape[0]), min(right, missing.shape[1])))


def _split(missing: Mask, large: int) -> Iterator[Box]:
    """Yield boxes with sides of at most `large` that together contain all of `missing`."""
    height, width = missing.shape
    for top in range(0, height, large):
        for left in range(0, width, large):
            part = Box(top, left, min(top + large, height), min(left + large, width))
            if missing[part.slices].any():
                yield _trim(missing, part)


def _trim(missing: Mask, box: Box) -> Box:
    """Return the smallest box with the missing pixels within `box`; there must be one."""
    part = missing[box.slices]
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    return Box(
        box.top + int(rows[0]), box.left + int(columns[0]), box.top + int(rows[-1]) + 1, box.left + int(columns[-1]) + 1
    )
