"""The nearest-neighbor field of one level: for each patch over the hole, the most similar one among the sources."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.exemplar import patches
from app.imaging.exemplar.levels import Level
from app.imaging.exemplar.patches import BORDER
from app.imaging.picture import Floats

DECAY = 1.3
"""A missing pixel counts so many times less than one that is a pixel nearer to the known ones."""
SPREAD = 0.5
"""Patches of so many times the median cost have 1/e of the votes of a perfect one."""

Ints = NDArray[np.int32]
INNER = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))


class Field:
    """The sources of the patches over the hole of a level, and the estimate of its pixels."""

    def __init__(self, level: Level, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        hole, unknown = np.pad(level.hole, BORDER), np.pad(level.unknown, BORDER, constant_values=True)
        self._image = np.pad(np.rint(level.image).astype(np.uint8), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)))
        self._source = np.pad(level.source, BORDER)
        self._candidates = np.flatnonzero(self._source)
        near = cv2.dilate(hole.view(np.uint8), np.ones((patches.SIDE, patches.SIDE), np.uint8))
        near[:BORDER] = near[-BORDER:] = near[:, :BORDER] = near[:, -BORDER:] = 0
        self._hy, self._hx = find(hole)
        self.ys, self.xs = find(near)
        self.index: Ints = np.full(hole.shape, -1, np.int32)
        self.index[self.ys, self.xs] = np.arange(len(self.ys))
        depth = cv2.distanceTransform(hole.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        estimated = np.maximum(np.rint(patches.MAX_WEIGHT * DECAY**-depth), 1)
        self._weight: NDArray[np.uint8] = np.where(hole, estimated, np.where(unknown, 0, patches.MAX_WEIGHT)).astype(
            np.uint8
        )
        self._totals = np.empty(len(self.ys), np.int32)
        patches.sum_weights(self._weight, self.ys, self.xs, self._totals)
        self.qy, self.qx, self._cost = (np.zeros(len(self.ys), np.int32) for _ in range(3))

    def start_from_guide(self, guide: Floats) -> None:
        """Begin with random sources, to be compared with `guide`, float32 (height, width, 4), from 0 to 255."""
        self._draw(np.ones(len(self.ys), bool))
        self._image[self._hy, self._hx] = np.rint(np.clip(guide[self._hy - BORDER, self._hx - BORDER], 0, 255))

    def start_from_coarser(self, coarser: Field) -> None:
        """Begin with the offsets of a field of half the size, and with what they copy."""
        # A side is rounded up when it is halved, so every pixel has a parent.
        parent = coarser.index[(self.ys - BORDER) // 2 + BORDER, (self.xs - BORDER) // 2 + BORDER]
        self.qy = np.clip(self.ys + 2 * (coarser.qy - coarser.ys)[parent], 0, self.index.shape[0] - 1)
        self.qx = np.clip(self.xs + 2 * (coarser.qx - coarser.xs)[parent], 0, self.index.shape[1] - 1)
        self._draw((parent < 0) | ~self._source[self.qy, self.qx])
        own = self.index[self._hy, self._hx]
        patches.copy(self._image, self._hy, self._hx, self.qy[own] - self._hy, self.qx[own] - self._hx)

    def search(self, sweeps: int, reach: int, seed: int) -> None:
        """Improve the sources, with random ones within `reach` pixels of the present ones."""
        flat = self._image.reshape(len(self._image), -1)
        patches.search(
            flat, self._weight, self._source, self.ys, self.xs, self.index, self.qy, self.qx, self._cost, sweeps, reach,
            seed,
        )  # fmt: skip

    def vote(self) -> None:
        """Let the missing pixels be the mean of what the patches over them propose."""
        result = np.empty((len(self._hy), 4), np.float32)
        patches.vote(self._image, self._hy, self._hx, self.index, self.qy, self.qx, self._votes(), result)
        self._image[self._hy, self._hx] = np.rint(result)

    def copy(self) -> None:
        """Let each missing pixel be a copy from one source: a mean is smoother, and then draws smoother sources."""
        patches.copy(self._image, self._hy, self._hx, *self._choose())

    def offsets(self) -> tuple[Ints, Ints]:
        """Return how many rows and columns away each missing pixel is copied from: int32 (height, width), else 0."""
        dy, dx = np.zeros_like(self.index), np.zeros_like(self.index)
        dy[self._hy, self._hx], dx[self._hy, self._hx] = self._choose()
        return dy[INNER], dx[INNER]

    def _choose(self) -> tuple[Ints, Ints]:
        dy, dx = np.empty_like(self._hy), np.empty_like(self._hy)
        patches.choose(
            self._hy, self._hx, self.index, self.ys, self.xs, self.qy, self.qx, self._votes(), dy, dx
        )  # fmt: skip
        return dy, dx

    def _votes(self) -> Floats:
        cost = self._cost / self._totals
        spread = SPREAD * np.percentile(cost, 50) + 1e-6
        near = self._weight[self.ys, self.xs] / patches.MAX_WEIGHT
        # Some vote is left to the worst patch: it may be the only one over a pixel.
        return np.asarray(np.exp(-np.minimum(cost / spread, 60)) * near + 1e-30, np.float32)

    def _draw(self, where: NDArray[np.bool_]) -> None:
        drawn = self._candidates[self._random.integers(0, len(self._candidates), np.count_nonzero(where))]
        self.qy[where], self.qx[where] = np.divmod(drawn, self.index.shape[1])


def find(mask: NDArray[Any]) -> tuple[Ints, Ints]:
    """Return rows and columns of what is not zero in `mask` (height, width), int32, line by line."""
    rows, columns = np.divmod(np.flatnonzero(mask).astype(np.int32), np.int32(mask.shape[1]))
    return rows, columns
