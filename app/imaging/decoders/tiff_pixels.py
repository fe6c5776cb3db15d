"""Reduces a TIFF to what makes its pixels, for the libraries that decode it.

They read every tag and every directory, and take a step for each uncompressed strip; what only describes the picture is
read elsewhere. So a library gets a file of one directory with the tags that make pixels, and one uncompressed strip.
"""

from __future__ import annotations

import struct

from app.imaging.decoders.tiff_directory import TiffPage
from app.imaging.decoders.tiff_entries import make_directory, make_header, read_entries

_MAX_VALUE_BYTES = 1 << 19
"""Largest value of a tag; only lists of strips and tiles may have more."""
_UNCOMPRESSED = 1
_LONG = 4
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 0x0111, 0x0116, 0x0117
_TILE_WIDTH, _TILE_OFFSETS, _TILE_BYTES = 0x0142, 0x0144, 0x0145
_LISTS = (_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES)
_PIXEL_TAGS = (
    *(0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x010A, 0x0115, _ROWS_PER_STRIP, 0x011C, 0x0124, 0x0125, 0x013D, 0x0140),
    *(_TILE_WIDTH, 0x0143, 0x014C, 0x014E, 0x0152, 0x0153, 0x015B, *range(0x0200, 0x020A), 0x0211, 0x0212, 0x0213),
    *(0x0214, *_LISTS),
)


def keep_pixels(data: bytes, page: TiffPage) -> bytes:
    """Return a file with only `page` and only its tags that make pixels; its orientation is 1.

    Raises ValueError or struct.error if the directory or an uncompressed strip is damaged.
    """
    entries = read_entries(data, page.order, page.big, page.at, _PIXEL_TAGS)
    if any(len(value) > _MAX_VALUE_BYTES and tag not in _LISTS for tag, _, _, value in entries):
        raise ValueError("a tag has too many values")
    begin = 16 if page.big else 8
    strips = _join_strips(data, page)
    if strips is None:
        body = data[begin:] + bytes(-len(data) % 8)
        at = begin + len(body)
        directory = make_directory(entries, page.order, page.big, at)
        return b"".join([make_header(page.order, page.big, at), body, directory])
    entries = [entry for entry in entries if entry[0] not in (_ROWS_PER_STRIP, _STRIP_OFFSETS, _STRIP_BYTES)]

    def make(pixels_at: int) -> bytes:
        numbers = {_ROWS_PER_STRIP: page.height, _STRIP_OFFSETS: pixels_at, _STRIP_BYTES: len(strips)}
        own = [(tag, _LONG, 1, struct.pack(page.order + "I", number)) for tag, number in numbers.items()]
        return make_directory([*entries, *own], page.order, page.big, begin)

    directory = make(begin + len(make(0)))
    return b"".join([make_header(page.order, page.big, begin), directory, strips])


def _join_strips(data: bytes, page: TiffPage) -> bytes | None:
    """Return the bytes of all strips, or None if they are compressed, one plane per color, or tiles.

    Raises ValueError if strips are missing or too short.
    """
    if page.compression != _UNCOMPRESSED or _TILE_WIDTH in page.tags or (page.planar and page.samples > 1):
        return None
    row = -(-page.width * page.samples * page.depth // 8)
    size = row * min(page.rows_per_strip, page.height)
    whole = row * page.height
    offsets = page.read_numbers(data, _STRIP_OFFSETS).tolist()
    parts = [data[at : at + size] for at in offsets[: -(-whole // size)]]
    parts[-1:] = [parts[-1][: whole - size * (len(parts) - 1)]] if parts else []
    strips = b"".join(parts)
    if len(strips) != whole or any(len(part) != size for part in parts[:-1]):
        raise ValueError("strips do not cover the picture")
    return strips
