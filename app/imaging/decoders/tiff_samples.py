"""Reads the samples of a TIFF as they are stored, for kinds that no library here puts together right.

Pillow's libtiff inflates strips and tiles of any lossless compression: it is given the bytes of a row as gray pixels.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.imaging.decoders.tiff_directory import TiffPage
from app.imaging.decoders.tiff_entries import Entry, make_directory, make_header

_UNPREDICTED = (1, 32773)
_LONG = 4
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 0x0111, 0x0116, 0x0117
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = 0x013D, 0x0142, 0x0143, 0x0144, 0x0145
_FILL_ORDER = 0x010A


def read_samples(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Return the samples, uint8 or uint16 (height, width, samples), of a page of 8 or 16 bit in a lossless compression.

    Raises ValueError or OSError if strips or tiles are missing or damaged.
    """
    planes = page.samples if page.planar else 1
    count = page.samples // planes
    result = np.empty((page.height, page.width, page.samples), f"u{page.depth // 8}")
    for plane in range(planes):
        rows = _read_strips(data, page, plane) if _is_plain(page) else _inflate(data, page, plane)
        values = rows.reshape(page.height, -1).view(f"{page.order}u{page.depth // 8}")
        result[..., plane * count : (plane + 1) * count] = values.reshape(page.height, page.width, count)
    if page.numbers.get(_PREDICTOR, (1,))[0] == 2 and page.compression not in _UNPREDICTED:
        (step,) = page.read_numbers(data, _TILE_WIDTH)[:1].tolist() or [page.width]
        for left in range(0, page.width, step):
            tile = result[:, left : left + step]
            tile[...] = np.cumsum(tile, axis=1, dtype=tile.dtype)
    return result


def _is_plain(page: TiffPage) -> bool:
    return page.compression == 1 and _TILE_WIDTH not in page.tags


def _count_row_bytes(page: TiffPage, width: int) -> int:
    """Return the bytes of `width` pixels of one plane."""
    return width * (1 if page.planar else page.samples) * page.depth // 8


def _read_strips(data: bytes, page: TiffPage, plane: int) -> NDArray[np.uint8]:
    """Return the bytes of a plane in uncompressed strips; libtiff would take a step for each."""
    size = _count_row_bytes(page, page.width) * min(page.rows_per_strip, page.height)
    whole = _count_row_bytes(page, page.width) * page.height
    parts = -(-whole // size)
    offsets = page.read_numbers(data, _STRIP_OFFSETS)[plane * parts : (plane + 1) * parts].tolist()
    sizes = [size] * (parts - 1) + [whole - size * (parts - 1)]
    strips = b"".join(data[at : at + length] for at, length in zip(offsets, sizes, strict=True))
    if len(strips) != whole:
        raise ValueError("strips do not cover the picture")
    return np.frombuffer(strips, np.uint8)


def _inflate(data: bytes, page: TiffPage, plane: int) -> NDArray[np.uint8]:
    """Return the bytes of a plane, (height, bytes of a row)."""
    width = _count_row_bytes(page, page.width)
    numbers: dict[int, list[int]] = {
        **{0x0100: [width], 0x0101: [page.height], 0x0102: [8], 0x0103: [page.compression], 0x0106: [1], 0x0115: [1]},
        _FILL_ORDER: page.read_numbers(data, _FILL_ORDER)[:1].tolist() or [1],
    }
    if _TILE_WIDTH in page.tags:
        wide, tall = (int(page.read_numbers(data, tag)[0]) for tag in (_TILE_WIDTH, _TILE_LENGTH))
        parts = -(-page.width // wide) * -(-page.height // tall)
        numbers |= {_TILE_WIDTH: [_count_row_bytes(page, wide)], _TILE_LENGTH: [tall]}
        lists = _TILE_OFFSETS, _TILE_BYTES
    else:
        rows = min(page.rows_per_strip, page.height)
        parts = -(-page.height // rows)
        numbers[_ROWS_PER_STRIP] = [rows]
        lists = _STRIP_OFFSETS, _STRIP_BYTES
    for tag in lists:
        numbers[tag] = page.read_numbers(data, tag)[plane * parts : (plane + 1) * parts].tolist()
        if len(numbers[tag]) != parts:
            raise ValueError("strips or tiles do not cover the picture")
    at = len(data) + len(data) % 2
    entries: list[Entry] = [
        (tag, _LONG, len(values), struct.pack(f"<{len(values)}I", *values)) for tag, values in numbers.items()
    ]
    file = [make_header("<", False, at), data[8:], bytes(at - len(data)), make_directory(entries, "<", False, at)]
    with Image.open(BytesIO(b"".join(file)), formats=["TIFF"]) as image:
        return np.asarray(image)
