"""Bounds what decoding the strips or tiles of a TIFF can cost, before a library does it.

Libraries decode whole tiles however small the picture is, and read the same bytes for each strip that claims them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging.decoders.tiff_directory import LOSSLESS, TiffPage

MAX_SPARE_PARTS = 4096
"""A file may list so many strips or tiles more than its picture has."""
MAX_TILE_PIXELS = 1 << 22
"""A tile may have so many pixels, or four times those of the picture."""
MAX_TILED_PIXELS = 1 << 25
"""All tiles together may have so many pixels, or four times those of the picture."""
MAX_OVERLAP = 4
"""The strips or tiles together may claim so many times the bytes of the file and of the decoded picture."""
MAX_SCANNED_PIXELS = 2 * 10**9
"""JPEG scans times the pixels of a strip or tile: each scan is a pass over all of them."""
_JPEG = (6, 7)  # compression
_STRIP_OFFSETS, _STRIP_BYTES = 0x0111, 0x0117
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = 0x0142, 0x0143, 0x0144, 0x0145


def check_layout(data: bytes, page: TiffPage) -> None:
    """Raise ValueError if the strips or tiles of `page` would cost far more than its picture and the file suggest."""
    planes = page.samples if page.planar else 1
    whole = page.width * page.height
    if _TILE_WIDTH in page.tags:
        sides = [page.read_numbers(data, tag)[:1].tolist() for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        wide, tall = (side[0] if side else 0 for side in sides)
        if wide < 1 or tall < 1:
            raise ValueError("a tile is empty")
        parts = -(-page.width // wide) * -(-page.height // tall)
        part = wide * tall
        if part > max(4 * whole, MAX_TILE_PIXELS) or parts * part > max(4 * whole, MAX_TILED_PIXELS):
            raise ValueError("tiles are much larger than the picture")
        offsets, lengths = _TILE_OFFSETS, _TILE_BYTES
    else:
        rows = min(page.rows_per_strip, page.height)
        parts, part = -(-page.height // rows), rows * page.width
        offsets, lengths = _STRIP_OFFSETS, _STRIP_BYTES
    parts *= planes
    for tag in (offsets, lengths):
        if page.tags.get(tag, ("", 0, 0))[1] > parts + MAX_SPARE_PARTS:
            raise ValueError("there are more strips or tiles than the picture has")
    # A length may be wrong without harm where it ends behind the file.
    claimed = int(np.minimum(page.read_numbers(data, lengths), len(data)).sum())
    decoded = whole * max(page.samples, 1) * -(-page.depth // 8)
    if claimed > MAX_OVERLAP * (len(data) + decoded):
        raise ValueError("strips or tiles overlap")
    _check_ends(data, page, page.read_numbers(data, offsets)[:parts], page.read_numbers(data, lengths)[:parts], part)
    if page.compression in _JPEG and data.count(b"\xff\xda") * part > MAX_SCANNED_PIXELS:
        raise ValueError("too many scans")


def _check_ends(data: bytes, page: TiffPage, offsets: NDArray[Any], lengths: NDArray[Any], part_pixels: int) -> None:
    """Raise ValueError if a strip or tile ends behind the file, where a library might find other bytes.

    Readers of JPEG and of fax see for themselves where the data end, and the lengths are often wrong.
    """
    if page.compression not in LOSSLESS or (page.compression == 1 and _TILE_WIDTH not in page.tags):
        return
    ends = offsets.astype(np.float64)
    if page.compression == 1:
        ends += part_pixels * (1 if page.planar else page.samples) * page.depth // 8
    elif len(lengths) == len(offsets):
        ends += lengths
    if ends.max(initial=0) > len(data):
        raise ValueError("a strip or tile ends behind the file")
