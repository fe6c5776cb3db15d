"""Copies the tags of a TIFF that describe the picture into an EXIF block."""

from __future__ import annotations

from collections.abc import Container

from app.imaging.decoders.base import MAX_METADATA_BYTES
from app.imaging.decoders.tiff_directory import TiffPage
from app.imaging.decoders.tiff_entries import Entry, make_directories, make_header, read_entries
from app.imaging.exif import DESCRIPTIVE_TAGS, EXIF_DIRECTORIES

_ORIENTATION, _INTEROPERABILITY_IFD = 0x0112, 0xA005
_LAST_EXIF_KIND = 13
_HEADER_BYTES = 8
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
    return make_header(page.order, False, _HEADER_BYTES) + make_directories(entries, inner, page.order, _HEADER_BYTES)


def _read(data: bytes, page: TiffPage, at: int, tags: Container[int] | None = None) -> list[Entry]:
    """Return the entries of a directory that a block can hold: no types of BigTIFF, and no directories below.

    Of a tag that is there twice, the first counts.
    """
    entries = {entry[0]: entry for entry in reversed(read_entries(data, page.order, page.big, at, tags))}
    return [entry for tag, entry in entries.items() if entry[1] <= _LAST_EXIF_KIND and tag != _INTEROPERABILITY_IFD]
