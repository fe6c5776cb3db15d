"""Measured times of model calls: batch sizes, shares, estimates and admission are all computed from them."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from app.private_files import open_private

log = structlog.get_logger(__name__)

MAX_BATCH_S = 0.5
"""A batch of several tiles may take no longer than this, because the next request waits for it."""
GAIN = 0.05
"""A larger batch must save this share of the time per tile: less is noise."""
SMOOTHING = 0.2
"""Weight of the newest call in an average."""
MAX_SIZES = 200
"""Sizes that are remembered per signature; a further one replaces the oldest."""
UNKNOWN = 1e-6
"""Seconds per pixel before any model was called."""


@dataclass(slots=True)
class _Average:
    seconds: float
    calls: int = 1

    def update(self, seconds: float) -> None:
        """Add a call. The second replaces the first, which also prepares the device for its size."""
        self.seconds += max(SMOOTHING, 1 / self.calls) * (seconds - self.seconds)
        self.calls += 1


class LatencyModel:
    """Averages of the seconds that a call took, by signature, pixels of a tile and tiles of a batch.

    A size that was never called is read off the line through those that were, by the pixels of the whole batch.
    `device` says what the figures were measured on: those of another one are forgotten when a file is read.
    """

    def __init__(self, device: str = "") -> None:
        self.device = device
        self._measured: dict[tuple[str, str], dict[tuple[int, int], _Average]] = {}
        self._lines: dict[tuple[str, str], list[tuple[int, float]]] = {}

    def record(self, model: str, signature: str, pixels: int, tiles: int, seconds: float) -> None:
        """Add the time of a batch: `tiles` of `pixels` each took `seconds`."""
        sizes = self._measured.setdefault((model, signature), {})
        size = (pixels, tiles)
        if size in sizes:
            sizes[size].update(seconds)
        else:
            sizes[size] = _Average(seconds)
        if len(sizes) > MAX_SIZES:
            del sizes[next(iter(sizes))]
        self._lines.pop((model, signature), None)

    def knows(self, model: str, signature: str, pixels: int, tiles: int = 1) -> bool:
        """Whether a batch of this size was measured."""
        return (pixels, tiles) in self._measured.get((model, signature), {})

    def seconds(self, model: str, signature: str, pixels: int, tiles: int = 1) -> float:
        """Return what a batch of `tiles` of `pixels` each takes, measured or estimated."""
        measured = self._measured.get((model, signature))
        if not measured:
            return pixels * tiles * self._rate()
        exact = measured.get((pixels, tiles))
        return _read_off(self._line(model, signature), pixels * tiles) if exact is None else exact.seconds

    def best_batch_size(self, model: str, signature: str, pixels: int, waiting: int, limit: int) -> int:
        """Return the batch size with the least time per tile when so many wait: a power of two, at most `limit`.

        It may be more than `waiting`: copies then fill the batch, so that few different sizes are used. Of sizes that
        take about the same time the smallest is returned.
        """
        alone = self.seconds(model, signature, pixels)
        best, least = 1, alone
        size = 2
        while size < 2 * waiting and size <= limit:
            whole = self.seconds(model, signature, pixels, size)
            if whole > max(alone, MAX_BATCH_S):
                break
            if whole / min(size, waiting) < least * (1 - GAIN):
                best, least = size, whole / min(size, waiting)
            size *= 2
        return best

    def larger_batch_pays(self, model: str, signature: str, pixels: int, tiles: int) -> bool:
        """Whether a batch of twice `tiles` is worth a try: this one saved something, and twice its time is not long."""
        whole = self.seconds(model, signature, pixels, tiles)
        half = self.seconds(model, signature, pixels, tiles // 2) if tiles > 1 else math.inf
        return 2 * whole <= MAX_BATCH_S and whole / 2 < half * (1 - GAIN)

    def rows(self) -> list[tuple[str, str, int, int, float]]:
        """Return (model, signature, pixels, tiles, seconds) of all that was measured."""
        return [
            (*name, pixels, tiles, average.seconds)
            for name, sizes in list(self._measured.items())  # a copy: it is saved on another thread than it grows on
            for (pixels, tiles), average in list(sizes.items())
        ]

    def save(self, path: Path) -> None:
        """Write the table to `path`, whole or not at all. A disk error is logged, and
        the times are measured again at the next start."""
        temporary = path.with_name(f"{path.name}.new")
        try:
            with open_private(temporary, "w") as file:
                json.dump({"device": self.device, "rows": self.rows()}, file)
            temporary.replace(path)
        except OSError as error:
            log.warning("latencies not saved", error=error.strerror)

    def load(self, path: Path) -> None:
        """Read what `save` wrote on the same device; any other file is ignored."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["device"] != self.device:
                return
            for model, signature, pixels, tiles, seconds in found["rows"]:
                if _is_time(seconds):
                    self.record(str(model), str(signature), int(pixels), int(tiles), float(seconds))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError):
            log.warning("latencies not read: they are measured again")

    def _rate(self) -> float:
        """Return the seconds per pixel, on average over all that was measured."""
        rows = self.rows()
        return sum(row[-1] for row in rows) / sum(row[2] * row[3] for row in rows) if rows else UNKNOWN

    def _line(self, model: str, signature: str) -> list[tuple[int, float]]:
        name = model, signature
        if name not in self._lines:
            totals: dict[int, list[float]] = {}
            for (pixels, tiles), average in self._measured[name].items():
                totals.setdefault(pixels * tiles, []).append(average.seconds)
            self._lines[name] = sorted((total, sum(found) / len(found)) for total, found in totals.items())
        return self._lines[name]


def _read_off(line: list[tuple[int, float]], total: int) -> float:
    """Return the value at `total` of a line through points, proportional beyond its ends."""
    place = bisect_left(line, (total, -math.inf))
    if place == len(line) or place == 0:
        end, seconds = line[-1] if place else line[0]
        return seconds * total / end
    (left, low), (right, high) = line[place - 1], line[place]
    return low + (high - low) * (total - left) / (right - left)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0
