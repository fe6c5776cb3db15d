"""Any picture as windows that a network takes, and their results as one picture again.

A picture is extended at its right and lower end, by reflection, to whole multiples of `tile_step`. Every window lies
in that frame and is flush with it where the picture ends, so that a network meets the picture's borders as it does
when it runs on the whole. A network whose reach is at most `halo` answers the same for a pixel whichever window it is
asked in: tiled equals untiled, and untiled is a plan of one tile. Windows begin on multiples of `multiple`, so that a
network which halves and doubles its picture meets the same grid in each. A plan depends on numbers only, never on
pixels or load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True, slots=True)
class Box:
    """Rows `top` to `bottom`, columns `left` to `right`, ends excluded, in pixels; the last may lie outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns, to index a picture with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: Box) -> Box:
        """Return where it lies in what is cut out for `outer`, which holds it."""
        top, left = self.top - outer.top, self.left - outer.left
        return Box(top, left, top + self.height, left + self.width)

    def overlaps(self, other: Box) -> bool:
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right


@dataclass(frozen=True, slots=True)
class Tile:
    """`window` is what the network sees, `inner` the part of the picture that its result is kept for."""

    index: int
    window: Box
    inner: Box


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of a picture of `height` × `width`; their inner parts cover it, each pixel once."""

    height: int
    width: int
    scale: int
    tiles: tuple[Tile, ...]


def make_plan(
    height: int, width: int, *, tile_size: int, tile_step: int, halo: int, multiple: int, scale: int = 1
) -> Plan:
    """Return the plan for a picture of `height` × `width` and results `scale` times as large.

    Each side of a window is a multiple of `tile_step`: `tile_size` while more than that is left, then the least that
    holds the rest and its surroundings. Raises ValueError where the numbers make no plan.
    """
    if min(height, width, tile_size, tile_step, multiple, scale) < 1 or halo < 0:
        raise ValueError("sizes, multiple and scale are at least 1, and halo at least 0")
    if tile_size % tile_step or tile_step % multiple:
        raise ValueError(
            f"tile_size {tile_size}, tile_step {tile_step} and multiple {multiple} do not divide each other"
        )
    margin = -(-halo // multiple) * multiple
    if tile_size <= 2 * margin:
        raise ValueError(f"tile_size {tile_size} leaves no room inside a margin of {margin} on both sides")
    rows = _spans(height, tile_size, tile_step, margin)
    columns = _spans(width, tile_size, tile_step, margin)
    boxes = [
        (Box(row.first, column.first, row.last, column.last), Box(row.begin, column.begin, row.end, column.end))
        for row in rows
        for column in columns
    ]
    return Plan(height, width, scale, tuple(Tile(i, window, inner) for i, (window, inner) in enumerate(boxes)))


@dataclass(frozen=True, slots=True)
class _Span:
    """One axis of a tile: the window is `first` to `last`, its inner part `begin` to `end`, ends excluded."""

    first: int
    last: int
    begin: int
    end: int


def _spans(length: int, size: int, step: int, margin: int) -> list[_Span]:
    frame = -(-length // step) * step
    spans: list[_Span] = []
    first = begin = 0
    while begin < length:
        if frame - first <= size:
            spans.append(_Span(first // step * step, frame, begin, length))
            break
        end = min(first + size - margin, length)
        spans.append(_Span(first, first + size, begin, end))
        first, begin = end - margin, end
    return spans


def _reflected(begin: int, end: int, length: int) -> NDArray[np.intp]:
    """Return the indices into an axis of `length` of positions `begin` to `end` of its endless reflection."""
    period = max(2 * (length - 1), 1)
    position = np.arange(begin, end) % period
    return np.minimum(position, period - position) if length > 1 else position


def cut(pixels: NDArray[Any], plan: Plan, window: Box) -> NDArray[np.float32]:
    """Return the pixels in `window`, extended by reflection, as float32 [1, height, width, channels].

    `pixels` is (height, width, channels): uint8 and uint16 become [0, 1], floating point stays as it is.
    """
    if pixels.shape[:2] != (plan.height, plan.width):
        raise ValueError(f"the plan is for {plan.height}×{plan.width}, the pixels are {pixels.shape}")
    if window.bottom <= plan.height and window.right <= plan.width:
        part = pixels[window.top : window.bottom, window.left : window.right]
    else:
        rows = _reflected(window.top, window.bottom, plan.height)
        columns = _reflected(window.left, window.right, plan.width)
        # The rows' copy is kept as narrow as the columns need: a strip of a wide picture is many times a window.
        first, last = int(columns.min()), int(columns.max()) + 1
        part = pixels[:, first:last][rows][:, columns - first]
    result = np.empty((1, *part.shape), np.float32)
    if np.issubdtype(part.dtype, np.floating):
        result[0] = part
    else:
        np.divide(part, np.float32(np.iinfo(part.dtype).max), out=result[0], dtype=np.float32)
    return result


class Canvas:
    """The picture that the results of a plan's tiles make. Different tiles may be added from different threads."""

    def __init__(self, plan: Plan, channels: int, dtype: DTypeLike) -> None:
        """`dtype` is uint8 or uint16 (results in [0, 1] are clipped, scaled and rounded) or float32 (kept)."""
        self._plan = plan
        self._pixels = np.empty((plan.height * plan.scale, plan.width * plan.scale, channels), dtype)
        self._missing = {tile.index for tile in plan.tiles}

    def add(self, tile: Tile, result: NDArray[np.float32]) -> None:
        """Keep the inner part of `result`, float32 [1, window height × scale, window width × scale, channels].

        Raises ValueError for another shape or a tile that is not waited for, FloatingPointError for NaN or infinity.
        """
        scale = self._plan.scale
        window, inner = tile.window, tile.inner
        shape = (1, window.height * scale, window.width * scale, self._pixels.shape[2])
        if result.shape != shape:
            raise ValueError(f"the result of a tile has shape {result.shape} instead of {shape}")
        if tile.index not in self._missing:
            raise ValueError(f"tile {tile.index} is not waited for")
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
        """Return the picture, (height × scale, width × scale, channels). Raises ValueError while a tile is missing."""
        if self._missing:
            raise ValueError(f"{len(self._missing)} of {len(self._plan.tiles)} tiles are missing")
        return self._pixels
