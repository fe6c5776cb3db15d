"""Splits a picture of any size into tiles for a network and joins the results into one picture.

A picture is extended at its right and lower edge, by reflection, to multiples of `tile_step`. All windows lie in this
extended picture and align with its edges, so a network sees the borders as it would on the whole picture. If the
network's receptive field reaches at most `halo` pixels, the tiled result equals the untiled one (a plan of one tile).
Windows begin on multiples of `multiple`, so a network that downsamples uses the same grid in every tile. A plan depends
only on sizes, never on pixels or load.

Windows overlap by two margins, so that small tiles compute many pixels several times: `choose_tile_size` makes tiles of
large pictures larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAX_OVERLAP = 1.15
"""Tiles are large enough if their windows have at most so many times the pixels of the picture."""
_MAX_GROWTH = 8
_GROWTH_STEPS = 16

TileSize = int | tuple[int, int]
"""The side of the largest windows, or their height and width, in pixels."""


@dataclass(frozen=True, slots=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right` in pixels, ends excluded; may extend beyond the picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def pixels(self) -> int:
        """Pixels inside."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns as slices, to index a picture with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def relative_to(self, outer: Box) -> Box:
        """Return this box in the coordinates of `outer`, which contains it."""
        top, left = self.top - outer.top, self.left - outer.left
        return Box(top, left, top + self.height, left + self.width)

    def overlaps(self, other: Box) -> bool:
        """Tell whether the two boxes share a pixel."""
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right


@dataclass(frozen=True, slots=True)
class Tile:
    """`window` is the network's input, `inner` the part of the picture that is taken from its result."""

    index: int
    window: Box
    inner: Box


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of a picture of `height` × `width`; their inner parts cover each pixel once.

    Results are `scale` times as large as the picture.
    """

    height: int
    width: int
    scale: int
    tiles: tuple[Tile, ...]


def make_plan(
    height: int, width: int, *, tile_size: TileSize, tile_step: int, halo: int, multiple: int, scale: int = 1
) -> Plan:
    """Return the plan for a picture of `height` × `width` and results `scale` times as large; all sizes in pixels.

    Each side of a window is a multiple of `tile_step`: `tile_size`, and for the last window the smallest that covers
    the rest with its halo. Raises ValueError if the sizes do not fit together.
    """
    tile_height, tile_width = _height_and_width(tile_size)
    if min(height, width, tile_height, tile_width, tile_step, multiple, scale) < 1 or halo < 0:
        raise ValueError("sizes, multiple and scale are at least 1, and halo at least 0")
    if tile_height % tile_step or tile_width % tile_step or tile_step % multiple:
        raise ValueError(
            f"tile_size {tile_size}, tile_step {tile_step} and multiple {multiple} do not divide each other"
        )
    margin = -(-halo // multiple) * multiple
    if min(tile_height, tile_width) <= 2 * margin:
        raise ValueError(f"tile_size {tile_size} leaves no room inside a margin of {margin} on both sides")
    rows = _split_axis(height, tile_height, tile_step, margin)
    columns = _split_axis(width, tile_width, tile_step, margin)
    boxes = [
        (
            Box(row.window_begin, column.window_begin, row.window_end, column.window_end),
            Box(row.inner_begin, column.inner_begin, row.inner_end, column.inner_end),
        )
        for row in rows
        for column in columns
    ]
    return Plan(height, width, scale, tuple(Tile(i, window, inner) for i, (window, inner) in enumerate(boxes)))


def count_work(height: int, width: int, *, tile_size: TileSize, tile_step: int, halo: int, multiple: int) -> int:
    """Return how many pixels the windows of such a plan have together, without making it.

    A thin picture of few pixels may have large windows, and all windows overlap.
    """
    margin = -(-halo // multiple) * multiple
    tile_height, tile_width = _height_and_width(tile_size)
    return _sum_windows(height, tile_height, tile_step, margin) * _sum_windows(width, tile_width, tile_step, margin)


def choose_tile_size(
    height: int, width: int, *, tile_size: int, tile_step: int, halo: int, multiple: int, max_pixels: float
) -> tuple[int, int]:
    """Return the height and width of tiles for a picture of `height` × `width`: each is `tile_size`, or larger.

    It is the smallest tile for which the windows have at most MAX_OVERLAP times the pixels of the picture. A tile
    larger than `tile_size` has at most `max_pixels`. If none is good enough, it is the one with the fewest pixels in
    all windows. Heights and widths are chosen separately: a tile that divides both sides of the picture well is smaller
    than a square one.
    """
    margin = -(-halo // multiple) * multiple
    rows, columns = (_list_sides(side, tile_size, tile_step, margin) for side in (height, width))
    least = rows[0].window * columns[0].window
    fitting = [
        (row.window * column.window, row.windows * column.windows, row.size, column.size)
        for row in rows
        for column in columns
        if row.window * column.window <= max(max_pixels, least)
    ]
    good = [choice for choice in fitting if choice[1] <= MAX_OVERLAP * height * width]
    best = min(good) if good else min(fitting, key=lambda choice: (choice[1], choice[0]))
    return best[2], best[3]


@dataclass(frozen=True, slots=True)
class _Side:
    """A side that tiles may have, that of their largest window, and how long all windows are together."""

    size: int
    window: int
    windows: int


def _list_sides(length: int, size: int, step: int, margin: int) -> list[_Side]:
    """Return the sides that tiles may have along an axis: `size`, and larger ones up to `length`.

    There are at most a hundred or so: also of a very long axis, and of a model with very small steps.
    """
    frame = -(-length // step) * step
    growth = step * max(1, size // (_GROWTH_STEPS * step))
    sizes = range(size, max(size, min(frame, _MAX_GROWTH * size)) + 1, growth)
    return [_Side(one, min(one, frame), _sum_windows(length, one, step, margin)) for one in sizes]


def _height_and_width(tile_size: TileSize) -> tuple[int, int]:
    return (tile_size, tile_size) if isinstance(tile_size, int) else tile_size


def _sum_windows(length: int, size: int, step: int, margin: int) -> int:
    """Return how long the windows of `_split_axis` are together."""
    frame, stride = -(-length // step) * step, size - 2 * margin
    whole = max(0, -(-(frame - size) // stride))  # windows before the one that reaches the end of the frame
    covering = max(0, -(-(length - margin) // stride))
    if 0 < covering <= whole:  # without a margin, they may cover the picture before
        return covering * size
    return whole * size + frame - whole * stride // step * step


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of a tile: where its window and its inner part begin and end, ends excluded."""

    window_begin: int
    window_end: int
    inner_begin: int
    inner_end: int


def _split_axis(length: int, size: int, step: int, margin: int) -> list[_Span]:
    """Return the windows, at most `size` long, and their inner parts along an axis of `length` pixels."""
    frame = -(-length // step) * step
    spans: list[_Span] = []
    window_begin = inner_begin = 0
    while inner_begin < length:
        if frame - window_begin <= size:
            spans.append(_Span(window_begin // step * step, frame, inner_begin, length))
            break
        inner_end = min(window_begin + size - margin, length)
        spans.append(_Span(window_begin, window_begin + size, inner_begin, inner_end))
        window_begin, inner_begin = inner_end - margin, inner_end
    return spans


def _reflect_indices(begin: int, end: int, length: int) -> NDArray[np.intp]:
    """Return indices into an axis of `length` for positions `begin` to `end` of its periodic reflection."""
    period = max(2 * (length - 1), 1)
    position = np.arange(begin, end) % period
    return np.minimum(position, period - position) if length > 1 else position


def cut(pixels: NDArray[Any], plan: Plan, window: Box) -> NDArray[np.float32]:
    """Return the pixels in `window`, extended by reflection, as float32 (1, height, width, channels).

    `pixels` is (height, width, channels): uint8 and uint16 are scaled to [0, 1], floating point is unchanged. Raises
    ValueError if the plan is for another size.
    """
    if pixels.shape[:2] != (plan.height, plan.width):
        raise ValueError(f"the plan is for {plan.height}×{plan.width}, the pixels are {pixels.shape}")
    if window.bottom <= plan.height and window.right <= plan.width:
        part = pixels[window.top : window.bottom, window.left : window.right]
    else:
        rows = _reflect_indices(window.top, window.bottom, plan.height)
        columns = _reflect_indices(window.left, window.right, plan.width)
        # Copy only the columns that are needed: whole rows of a wide picture are many times the size of a window.
        first, last = int(columns.min()), int(columns.max()) + 1
        part = pixels[:, first:last][rows][:, columns - first]
    result = np.empty((1, *part.shape), np.float32)
    if np.issubdtype(part.dtype, np.floating):
        result[0] = part
    else:
        np.divide(part, np.float32(np.iinfo(part.dtype).max), out=result[0], dtype=np.float32)
    return result


class Canvas:
    """Joins the results of a plan's tiles into one picture. Different tiles may be added from different threads."""

    def __init__(self, plan: Plan, channels: int, dtype: DTypeLike) -> None:
        """`dtype` is uint8 or uint16 (results are clipped to [0, 1], scaled and rounded) or float32 (unchanged)."""
        self._plan = plan
        self._pixels = np.empty((plan.height * plan.scale, plan.width * plan.scale, channels), dtype)
        self._missing = {tile.index for tile in plan.tiles}

    def add(self, tile: Tile, result: NDArray[np.float32]) -> None:
        """Copy the inner part of `result`, float32 (1, window height × scale, window width × scale, channels).

        Raises ValueError for another shape or a tile that was already added, FloatingPointError for NaN or infinity.
        """
        scale = self._plan.scale
        window, inner = tile.window, tile.inner
        shape = (1, window.height * scale, window.width * scale, self._pixels.shape[2])
        if result.shape != shape:
            raise ValueError(f"the result of a tile has shape {result.shape} instead of {shape}")
        if tile.index not in self._missing:
            raise ValueError(f"tile {tile.index} was already added")
        top, left = (inner.top - window.top) * scale, (inner.left - window.left) * scale
        part = result[0, top : top + inner.height * scale, left : left + inner.width * scale]
        if not np.isfinite(part).all():
            raise FloatingPointError("the result of a tile is not finite")
        target = self._pixels[
            inner.top * scale : inner.bottom * scale,
            inner.left * scale : inner.right * scale,
        ]
        if np.issubdtype(self._pixels.dtype, np.floating):
            target[...] = part
        else:
            white = np.float32(np.iinfo(self._pixels.dtype).max)
            scaled = np.clip(part, 0.0, 1.0) * white
            np.rint(scaled, out=scaled)
            target[...] = scaled
        self._missing.discard(tile.index)

    def result(self) -> NDArray[Any]:
        """Return the picture, (height × scale, width × scale, channels). Raises ValueError if a tile is missing."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} of {len(self._plan.tiles)} tiles are missing")
        return self._pixels
