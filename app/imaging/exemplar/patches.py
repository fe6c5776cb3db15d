"""Compiled loops of the exemplar method: PatchMatch, votes, and one source for each pixel.

The distance of two patches is an integer, so it is the same whatever order a processor adds it in, and the loops are
fast without relaxed arithmetic. Random numbers are made from the position of a pixel. All loops release the
interpreter's lock.

A patch is a square of 2 RADIUS + 1 pixels. Arrays have a border of BORDER pixels around the picture, where weights are
0, so that every patch of a pixel of the picture lies within the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from app.imaging.compilation import compiled

RADIUS = 3
"""Patch radius, in pixels."""
SIDE = 2 * RADIUS + 1
BORDER = RADIUS + 1
"""One more than the radius: a row of a patch is read as eight pixels, the last of which has weight 0."""
LANES = 32
"""Bytes of a row of eight pixels."""
MAX_WEIGHT = 32
"""The largest weight of a pixel: 49 pixels × 4 channels × 255² × 32 still fits into 31 bits."""
UNKNOWN = np.int32(2**31 - 1)
"""The cost of a patch that was not compared yet."""


@compiled
def _read_target(image: Any, weight: Any, y: Any, x: Any, patch: Any, weights: Any) -> None:
    for i in range(SIDE):
        for k in range(LANES):
            patch[i, k] = image[y - RADIUS + i, 4 * (x - RADIUS) + k]
        for j in range(SIDE):
            for k in range(4):
                weights[i, 4 * j + k] = weight[y - RADIUS + i, x - RADIUS + j]


@compiled
def _distance(image: Any, patch: Any, weights: Any, y: Any, x: Any, best: Any) -> Any:
    """Return the weighted squared distance of a target patch to the one at (y, x), or something above `best`."""
    total = np.int32(0)
    left = np.uint64(4 * (x - RADIUS))
    for i in range(SIDE):
        row = image[y - RADIUS + i]
        part = np.int32(0)
        for k in range(LANES):
            difference = np.int32(np.int32(patch[i, k]) - np.int32(row[left + np.uint64(k)]))
            square = np.int32(difference * difference)
            part = np.int32(part + np.int32(square * np.int32(weights[i, k])))
        total = np.int32(total + part)
        if total > best:
            return total
    return total


@compiled
def _mix(bits: Any) -> Any:
    """Return 32 random bits that depend on 32 `bits` (lowbias32, Wellons 2018)."""
    bits = (bits ^ (bits >> np.uint64(16))) * np.uint64(0x7FEB352D) & np.uint64(0xFFFFFFFF)
    bits = (bits ^ (bits >> np.uint64(15))) * np.uint64(0x846CA68B) & np.uint64(0xFFFFFFFF)
    return bits ^ (bits >> np.uint64(16))


@compiled
def search(
    image: Any, weight: Any, source: Any, ys: Any, xs: Any, index: Any, qy: Any, qx: Any, cost: Any, sweeps: Any,
    reach: Any, seed: Any,
) -> None:  # fmt: skip
    """Improve the sources (qy, qx) of the target patches (ys, xs) and their `cost`, int32 (n), in place.

    PatchMatch: a patch tries the sources of its neighbors, and random ones within `reach` pixels of its own, then
    within half as many, and so on. `image` is uint8 (height, 4 width), `weight` uint8 (height, width) up to MAX_WEIGHT;
    `source`, bool, is where the center of a source may be; `index`, int32, the number of each target, -1 elsewhere.
    """
    height, width = source.shape
    patch, weights = np.empty((SIDE, LANES), np.uint8), np.zeros((SIDE, LANES), np.uint8)
    count = ys.shape[0]
    for sweep in range(sweeps):
        step = -1 if sweep % 2 == 0 else 1
        for number in range(count):
            t = number if step < 0 else count - 1 - number
            y, x = ys[t], xs[t]
            _read_target(image, weight, y, x, patch, weights)
            by, bx = qy[t], qx[t]
            best = _distance(image, patch, weights, by, bx, UNKNOWN) if sweep == 0 else cost[t]
            for k in range(2):
                j = index[y + (step if k == 0 else 0), x + (step if k == 1 else 0)]
                if j < 0:
                    continue
                cy, cx = qy[j] + y - ys[j], qx[j] + x - xs[j]
                if cy < 0 or cx < 0 or cy >= height or cx >= width or not source[cy, cx] or (cy == by and cx == bx):
                    continue
                found = _distance(image, patch, weights, cy, cx, best)
                if found < best:
                    best, by, bx = found, cy, cx
            radius = reach
            bits = _mix(np.uint64((y * 65536 + x) & 0xFFFFFFFF) ^ _mix(np.uint64(seed * 64 + sweep)))
            while radius >= 1:
                bits = _mix((bits + np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF))
                span = np.uint64(2 * radius + 1)
                cy = by - radius + np.int64(((bits & np.uint64(0xFFFF)) * span) >> np.uint64(16))
                cx = bx - radius + np.int64(((bits >> np.uint64(16)) * span) >> np.uint64(16))
                if cy >= 0 and cx >= 0 and cy < height and cx < width and source[cy, cx]:
                    found = _distance(image, patch, weights, cy, cx, best)
                    if found < best:
                        best, by, bx = found, cy, cx
                radius //= 2
            cost[t], qy[t], qx[t] = best, by, bx


@compiled
def sum_weights(weight: Any, ys: Any, xs: Any, result: Any) -> None:
    """Write the sum of the weights of each target patch to `result`, int32 (n)."""
    for t in range(ys.shape[0]):
        total = 0
        for i in range(-RADIUS, RADIUS + 1):
            for j in range(-RADIUS, RADIUS + 1):
                total += weight[ys[t] + i, xs[t] + j]
        result[t] = total


@compiled
def vote(image: Any, hy: Any, hx: Any, index: Any, qy: Any, qx: Any, votes: Any, result: Any) -> None:
    """Write to `result`, float32 (m, 4), the mean of what the patches over each missing pixel (hy, hx) propose for it.

    `image` is uint8 (height, width, 4); `votes`, float32 (n), are the weights of the patches.
    """
    for p in range(hy.shape[0]):
        red = green = blue = last = total = np.float32(0)
        for i in range(-RADIUS, RADIUS + 1):
            for j in range(-RADIUS, RADIUS + 1):
                t = index[hy[p] - i, hx[p] - j]
                if t >= 0:
                    y, x = qy[t] + i, qx[t] + j
                    red += votes[t] * np.float32(image[y, x, 0])
                    green += votes[t] * np.float32(image[y, x, 1])
                    blue += votes[t] * np.float32(image[y, x, 2])
                    last += votes[t] * np.float32(image[y, x, 3])
                    total += votes[t]
        result[p, 0], result[p, 1], result[p, 2], result[p, 3] = red / total, green / total, blue / total, last / total


@compiled
def choose(hy: Any, hx: Any, index: Any, ys: Any, xs: Any, qy: Any, qx: Any, votes: Any, dy: Any, dx: Any) -> None:
    """Write to `dy` and `dx`, int32 (m), the offset that most votes of the patches over each missing pixel are for.

    A patch whose center is nearer to the pixel has more weight.
    """
    rows, columns = np.empty(SIDE * SIDE, np.int32), np.empty(SIDE * SIDE, np.int32)
    sums = np.empty(SIDE * SIDE, np.float32)
    for p in range(hy.shape[0]):
        count = 0
        for i in range(-RADIUS, RADIUS + 1):
            for j in range(-RADIUS, RADIUS + 1):
                t = index[hy[p] - i, hx[p] - j]
                if t < 0:
                    continue
                row, column, k = qy[t] - ys[t], qx[t] - xs[t], 0
                while k < count and (rows[k] != row or columns[k] != column):
                    k += 1
                if k == count:
                    rows[k], columns[k], sums[k] = row, column, np.float32(0)
                    count += 1
                sums[k] += votes[t] / np.float32(1 + i * i + j * j)
        best = 0
        for k in range(1, count):
            if sums[k] > sums[best]:
                best = k
        dy[p], dx[p] = rows[best], columns[best]


@compiled
def copy(image: Any, hy: Any, hx: Any, dy: Any, dx: Any) -> None:
    """Copy to each pixel (hy, hx) of `image`, (height, width, channels), the pixel (dy, dx) away from it."""
    for p in range(hy.shape[0]):
        for k in range(image.shape[2]):
            image[hy[p], hx[p], k] = image[hy[p] + dy[p], hx[p] + dx[p], k]
