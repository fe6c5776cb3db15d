"""The screened Poisson equation on the pixels of a hole, by multigrid."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.imaging.compilation import compiled
from app.imaging.holes import Mask
from app.imaging.picture import Floats

CYCLES = 6
SWEEPS = 3
SMALLEST = 8
"""Rows or columns below which there is no coarser grid."""


@compiled
def add_seams(
    values: Any, unknown: Any, hole: Any, dy: Any, dx: Any, rows: Any, columns: Any, top: Any, left: Any,
    limit: Any, seams: Any,
) -> None:  # fmt: skip
    """Write to `seams`, for each pixel (rows, columns) of the hole, its wanted minus its present differences.

    `values`, float32 (height, width), is a plane whose hole is filled by copies from (dy, dx) away. The wanted
    difference is that of the sources: the mean of both where they differ. Where a neighbor is unknown and not filled,
    any difference is right. What is above `limit` is an edge, of which only so much is taken out: its color would
    bleed. `seams` begins at (top, left) of the plane.
    """
    height, width = hole.shape
    for p in range(rows.shape[0]):
        y, x = rows[p], columns[p]
        sy, sx = y + dy[y, x], x + dx[y, x]
        total = np.float32(0)
        for k in range(4):
            i, j = (k == 0) - np.int64(k == 1), (k == 2) - np.int64(k == 3)
            ny, nx = y + i, x + j
            if ny < 0 or nx < 0 or ny >= height or nx >= width:
                continue
            if sy + i < 0 or sx + j < 0 or sy + i >= height or sx + j >= width:
                continue  # the source is at the edge of the picture
            wanted = values[sy, sx] - values[sy + i, sx + j]
            if hole[ny, nx]:
                if dy[ny, nx] == dy[y, x] and dx[ny, nx] == dx[y, x]:
                    continue
                ty, tx = ny + dy[ny, nx], nx + dx[ny, nx]
                if ty - i < 0 or tx - j < 0 or ty - i >= height or tx - j >= width:
                    continue
                wanted = np.float32(0.5) * (wanted + values[ty - i, tx - j] - values[ty, tx])
            elif unknown[ny, nx]:
                continue
            total += min(max(wanted - values[y, x] + values[ny, nx], -limit), limit)
        seams[y - top, x - left] = total


@compiled
def _relax(u: Any, right: Any, free: Any, screen: Any, sweeps: Any) -> None:
    """Improve u by Gauss-Seidel, red and black pixels in turn, in place."""
    height, width = free.shape
    for sweep in range(2 * sweeps):
        for y in range(height):
            for x in range((y + sweep) % 2, width, 2):
                if free[y, x]:
                    total, count = right[y, x], screen
                    if y > 0:
                        total += u[y - 1, x]
                        count += np.float32(1)
                    if y < height - 1:
                        total += u[y + 1, x]
                        count += np.float32(1)
                    if x > 0:
                        total += u[y, x - 1]
                        count += np.float32(1)
                    if x < width - 1:
                        total += u[y, x + 1]
                        count += np.float32(1)
                    u[y, x] = total / count


@compiled
def _restrict(u: Any, right: Any, free: Any, screen: Any, coarse: Any, coarse_free: Any) -> None:
    """Write the sums of the residual over 2 × 2 pixels to `coarse`, and whether all of them are free."""
    height, width = free.shape
    for y in range(height):
        for x in range(width):
            if free[y, x]:
                rest, count = right[y, x], screen
                if y > 0:
                    rest += u[y - 1, x]
                    count += np.float32(1)
                if y < height - 1:
                    rest += u[y + 1, x]
                    count += np.float32(1)
                if x > 0:
                    rest += u[y, x - 1]
                    count += np.float32(1)
                if x < width - 1:
                    rest += u[y, x + 1]
                    count += np.float32(1)
                coarse[y // 2, x // 2] += rest - count * u[y, x]
            else:
                coarse_free[y // 2, x // 2] = False


@compiled
def _prolong(u: Any, free: Any, coarse: Any) -> None:
    """Add `coarse`, enlarged bilinearly, to the free pixels of u."""
    for y in range(free.shape[0]):
        a = y // 2
        b = min(max(a + 2 * (y % 2) - 1, 0), coarse.shape[0] - 1)
        for x in range(free.shape[1]):
            if free[y, x]:
                c = x // 2
                d = min(max(c + 2 * (x % 2) - 1, 0), coarse.shape[1] - 1)
                sides = coarse[b, c] + coarse[a, d]
                u[y, x] += np.float32(1 / 16) * (9 * coarse[a, c] + 3 * sides + coarse[b, d])


def solve(right: Floats, free: Mask, screen: float) -> Floats:
    """Return u, float32 (height, width), 0 where not `free`, that solves the equation elsewhere, by V-cycles.

    (number of neighbors + screen) u - sum of neighbors = right. What lies outside the array is no neighbor, so nothing
    is prescribed there.
    """
    u = np.zeros(free.shape, np.float32)
    for _ in range(CYCLES):
        _cycle(u, right, free, screen)
    return u


def _cycle(u: Floats, right: Floats, free: Mask, screen: float) -> None:
    _relax(u, right, free, np.float32(screen), SWEEPS)
    if min(free.shape) >= SMALLEST:
        shape = ((free.shape[0] + 1) // 2, (free.shape[1] + 1) // 2)
        coarse, coarse_free = np.zeros(shape, np.float32), np.ones(shape, bool)
        _restrict(u, right, free, np.float32(screen), coarse, coarse_free)
        if coarse_free.any():
            error = np.zeros(shape, np.float32)
            _cycle(error, coarse, coarse_free, 4 * screen)
            _prolong(u, free, error)
    _relax(u, right, free, np.float32(screen), SWEEPS)
