"""How coarsely a picture was once quantized by a JPEG encoder, read from its pixels: its file may be another by now.

In the blocks of the encoder, the coefficients of the cosine transform still lie near multiples of the encoder's steps
(Fan and de Queiroz 2003, Identification of bitmap compression history, doi 10.1109/TIP.2002.807361).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.imaging.color import LUMINANCE

_BLOCK = 8
_FREQUENCIES = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0))
_STANDARD_STEPS = np.array([11, 12, 14, 12, 10, 16, 14, 13, 14], np.float32)
"""Those of quality 50 at these frequencies, for luma (ISO 10918-1, annex K)."""
_LARGEST_STEP = 40
_CLEAR = 0.4
"""The mean cosine from which on coefficients lie at multiples: 1 if exactly there, 0 if anywhere."""
_LEAST_COUNT, _LEAST_FREQUENCIES = 40, 3
_AREAS, _SIDE, _SEARCHED = 6, 256, 136

_PLACES = np.arange(_BLOCK)
_WAVES = np.cos(np.pi * (2 * _PLACES[None] + 1) * _PLACES[:, None] / (2 * _BLOCK)).astype(np.float32)
_WAVES /= np.linalg.norm(_WAVES, axis=1, keepdims=True)
_FINE = np.add.outer(_PLACES, _PLACES) >= _BLOCK


def quantization(pixels: NDArray[np.uint8]) -> float:
    """Return the encoder's steps over those of quality 50: 0.5 is quality 75, 0 no trace of an encoder.

    `pixels` is (height, width, 1 or 3). At most six areas of it are looked at, of which the middle one counts.
    """
    found = sorted(_quantization(area) for area in _areas(pixels))
    return found[len(found) // 2] if found else 0.0


def _areas(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the luma of areas that are spread over a picture along its diagonals, each of at most 256x256 pixels."""
    height, width = pixels.shape[:2]
    if min(height, width) < 2 * _BLOCK:
        return []
    below, beside = max(0, height - _SIDE), max(0, width - _SIDE)
    shares = [(0.5, 0.5), (0.1, 0.1), (0.9, 0.9), (0.1, 0.9), (0.9, 0.1), (0.5, 0.9)]
    places = dict.fromkeys((int(below * row), int(beside * column)) for row, column in shares[:_AREAS])
    return [_luma(pixels[top : top + _SIDE, left : left + _SIDE]) for top, left in places]


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    if values.shape[-1] == 1:
        return np.asarray(values[..., 0])
    return np.asarray(values @ LUMINANCE)


def _quantization(luma: NDArray[np.float32]) -> float:
    coefficients = _transform(luma, *_grid(luma))
    ratios = [
        step / standard
        for (row, column), standard in zip(_FREQUENCIES, _STANDARD_STEPS, strict=True)
        if (step := _step(coefficients[:, row, column]))
    ]
    return float(np.median(ratios)) if len(ratios) >= _LEAST_FREQUENCIES else 0.0


def _grid(luma: NDArray[np.float32]) -> tuple[int, int]:
    """Return where blocks begin: where most fine coefficients are as good as 0, which encoders make them."""
    middle = luma.shape[0] // 4 // _BLOCK * _BLOCK, luma.shape[1] // 4 // _BLOCK * _BLOCK
    part = luma[middle[0] :, middle[1] :][:_SEARCHED, :_SEARCHED]
    places = [(top, left) for top in range(_BLOCK) for left in range(_BLOCK)]
    return max(places, key=lambda place: float(np.mean(np.abs(_transform(part, *place)[:, _FINE]) < 0.7)))


def _transform(luma: NDArray[np.float32], top: int, left: int) -> NDArray[np.float32]:
    """Return the cosine transform of the blocks that begin at a place, (blocks, 8, 8)."""
    rows, columns = (luma.shape[0] - top) // _BLOCK, (luma.shape[1] - left) // _BLOCK
    part = luma[top : top + rows * _BLOCK, left : left + columns * _BLOCK]
    blocks = part.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)
    return np.asarray(_WAVES @ blocks @ _WAVES.T)


def _step(values: NDArray[np.float32]) -> int:
    """Return the largest step of which most of `values` that are not 0 are multiples; 0 if there is none above 1."""
    for step in range(_LARGEST_STEP, 1, -1):
        counted = values[np.abs(values) > step / 2]
        if len(counted) >= _LEAST_COUNT and float(np.mean(np.cos(2 * np.pi / step * counted))) > _CLEAR:
            return step
    return 0
