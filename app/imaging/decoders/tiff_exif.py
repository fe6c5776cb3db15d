"""Copies the tags of a TIFF that describe the picture into an EXIF block."""

from __future__ import annotations

import struct
from collections.abc import Container

from app.imaging.decoders.base import MAX_METADATA_BYTES
from app.imaging.decoders.tiff_directory import TiffPage
from app.imaging.decoders.tiff_entries import Entry, make_directory, make_header, read_entries
from app.imaging.exif import DESCRIPTIVE_TAGS, EXIF_DIRECTORIES

_ORIENTATION, _INTEROPERABILITY_IFD = 0x0112, 0xA005
_LONG, _LAST_EXIF_KIND = 4, 13
_OWN_TAGS = frozenset(DESCRIPTIVE_TAGS) - {_ORIENTATION}


def read_exif(data: bytes, page: TiffPage) -> bytes | None:
    """Return the descriptive tags of `page` without its orientation as an EXIF block, or None if there are none.

    Raises ValueError or struct.error if they are damaged or too large.
    """
    entries = _read(data, page, page.at, _OWN_TAGS)
    inner = {}
    for tag in EXIF_DIRECTORIES:
        pointer = page.read_numbers(data, tag)
        found = _read(data, page, int(pointer[0])) if len(pointer) else []
        if found:
            inner[tag] = found
    if not entries and not inner:
        return None
    if sum(len(value) for part in (entries, *inner.values()) for *_, value in part) > MAX_METADATA_BYTES:
        raise ValueError("the values are too large")
    at = 8 + len(make_directory([*entries, *((tag, _LONG, 1, bytes(4)) for tag in inner)], page.order, False, 8))
    parts = []
    for tag, found in inner.items():
        entries.append((tag, _LONG, 1, struct.pack(page.order + "I", at)))
        parts.append(make_directory(found, page.order, False, at))
        at += len(parts[-1])
    return b"".join([make_header(page.order, False, 8), make_directory(entries, page.order, False, 8), *parts])


def _read(data: bytes, page: TiffPage, at: int, tags: Container[int] | None = None) -> list[Entry]:
    """Return the entries of a directory that a block can hold: no types of BigTIFF, and no directories below."""
    return [
        entry
        for entry in read_entries(data, page.order, page.big, at, tags)
        if entry[1] <= _LAST_EXIF_KIND and entry[0] != _INTEROPERABILITY_IFD
    ]
