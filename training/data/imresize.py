"""MATLAB's `imresize` with the bicubic kernel, by which the super-resolution literature makes its small pictures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys' cubic kernel (1981) with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


@lru_cache(maxsize=256)
def matrix(length: int, out_length: int) -> np.ndarray:
    """Return the float64 (out_length, length) matrix that resizes one axis: antialiased, edges mirrored."""
    scale = out_length / length
    stretch = min(scale, 1.0)
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    width = 4 / stretch
    left = np.floor(centre - width / 2).astype(int)
    index = left[:, None] + np.arange(int(np.ceil(width)) + 2)
    weight = stretch * _cubic(stretch * (centre[:, None] - index))
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = np.mod(index, 2 * length)
    mirrored = np.where(mirrored >= length, 2 * length - 1 - mirrored, mirrored)
    out = np.zeros((out_length, length))
    np.add.at(out, (np.arange(out_length)[:, None], mirrored), weight)
    return out


def imresize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return `picture` (height, width, channels) resized, float64, neither clipped nor rounded."""
    rows, columns = matrix(picture.shape[0], height), matrix(picture.shape[1], width)
    wide = np.tensordot(picture.astype(np.float64), columns, (1, 1))  # (height, channels, out_width)
    return np.tensordot(rows, wide, (1, 0)).transpose(0, 2, 1)
