"""EXIF and XMP as bytes: what must change in them when pixels do, and nothing else.

A block is patched where it stands instead of being written anew: makers' notes hold offsets from its beginning and
would be broken by moving.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_PREFIX = b"Exif\0\0"
_SHORT, _LONG = 3, 4
_ORIENTATION, _EXIF_IFD = 0x0112, 0x8769
_IMAGE_WIDTH, _IMAGE_LENGTH, _PIXEL_X, _PIXEL_Y = 0x0100, 0x0101, 0xA002, 0xA003
_THUMBNAIL_AT, _THUMBNAIL_LENGTH, _STRIPS_AT, _STRIP_LENGTHS = 0x0201, 0x0202, 0x0111, 0x0117
_MAX_SPANS = 64
_MAX_BYTES = 1 << 24
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


class BrokenBlock(ValueError):
    """An EXIF block that cannot be followed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    tag: int
    kind: int
    count: int
    at: int


class _Block:
    """A TIFF block that is read and patched in place. Raises BrokenBlock for anything that points outside."""

    def __init__(self, data: bytes) -> None:
        if data[:4] not in (b"II*\0", b"MM\0*") or len(data) > _MAX_BYTES:
            raise BrokenBlock("no TIFF header, or unreasonably large")
        self.data = bytearray(data)
        self.order = "<" if data[:1] == b"I" else ">"

    def number(self, at: int, kind: str) -> int:
        try:
            return int(struct.unpack_from(self.order + kind, self.data, at)[0])
        except struct.error:
            raise BrokenBlock("an offset leaves the block") from None

    def entries(self, at: int) -> Iterator[_Entry]:
        for i in range(self.number(at, "H")):
            place = at + 2 + 12 * i
            yield _Entry(self.number(place, "H"), self.number(place + 2, "H"), self.number(place + 4, "I"), place)

    def next_at(self, at: int) -> int:
        return at + 2 + 12 * self.number(at, "H")

    def values(self, entry: _Entry) -> list[int]:
        """Return the numbers of a SHORT or LONG entry."""
        kind = {_SHORT: "H", _LONG: "I"}.get(entry.kind)
        if kind is None or not 0 < entry.count <= 65535:
            return []
        size = _SIZES[entry.kind]
        at = entry.at + 8 if size * entry.count <= 4 else self.number(entry.at + 8, "I")
        return [self.number(at + size * i, kind) for i in range(entry.count)]

    def put(self, entry: _Entry, value: int) -> None:
        """Make the entry one LONG, or one SHORT where it was that and the value fits."""
        if entry.kind == _SHORT and value <= 65535:
            struct.pack_into(self.order + "HIHH", self.data, entry.at + 2, _SHORT, 1, value, 0)
        else:
            struct.pack_into(self.order + "HII", self.data, entry.at + 2, _LONG, 1, value)

    def wipe(self, begin: int, end: int) -> None:
        begin, end = min(begin, len(self.data)), min(end, len(self.data))
        self.data[begin:end] = bytes(max(end - begin, 0))


def clean_exif(raw: bytes) -> tuple[int, bytes]:
    """Return the orientation (1 to 8) of an EXIF block, and the block with orientation 1 and without thumbnail.

    The thumbnail's bytes are zeros afterwards, not just unlinked: it may show what is painted out later. Raises
    BrokenBlock.
    """
    block = _Block(raw.removeprefix(_PREFIX))
    first = block.number(4, "I")
    orientation = 1
    for entry in block.entries(first):
        if entry.tag == _ORIENTATION:
            orientation = _orientation(block, entry)
            block.put(entry, 1)
        elif entry.tag == _EXIF_IFD:
            for _ in block.entries(block.number(entry.at + 8, "I")):
                pass  # followed once so that a directory that leaves the block is found here
    link = block.next_at(first)
    if link + 4 > len(block.data):  # some writers end the block before the empty link
        return orientation, bytes(block.data)
    second = block.number(link, "I")
    if second:
        _wipe_directory(block, second)
        struct.pack_into("4s", block.data, link, bytes(4))
    return orientation, bytes(block.data)


def orientation_of(raw: bytes) -> int:
    """Return the orientation (1 to 8) of an EXIF block that may be broken behind it, 1 where none is found."""
    try:
        block = _Block(raw.removeprefix(_PREFIX))
        entries = block.entries(block.number(4, "I"))
        return next((_orientation(block, entry) for entry in entries if entry.tag == _ORIENTATION), 1)
    except BrokenBlock:
        return 1


def _orientation(block: _Block, entry: _Entry) -> int:
    values = block.values(entry)
    return values[0] if values and 1 <= values[0] <= 8 else 1


def _wipe_directory(block: _Block, at: int) -> None:
    """Overwrite a thumbnail's directory, the values it points to, and its pixels."""
    found: dict[int, list[int]] = {}
    spans = [(at, block.next_at(at) + 4)]
    for entry in block.entries(at):
        if entry.tag in (_THUMBNAIL_AT, _THUMBNAIL_LENGTH, _STRIPS_AT, _STRIP_LENGTHS):
            found[entry.tag] = block.values(entry)
        size = _SIZES.get(entry.kind, 1) * entry.count
        if size > 4:
            start = block.number(entry.at + 8, "I")
            spans.append((start, start + size))
    for offsets, lengths in ((_THUMBNAIL_AT, _THUMBNAIL_LENGTH), (_STRIPS_AT, _STRIP_LENGTHS)):
        pairs = zip(found.get(offsets, []), found.get(lengths, []), strict=False)
        spans += [(offset, offset + length) for offset, length in pairs]
    if len(spans) > _MAX_SPANS:
        raise BrokenBlock("a thumbnail in too many pieces")
    for begin, end in spans:
        block.wipe(begin, end)


def resize_exif(exif: bytes, width: int, height: int) -> bytes:
    """Return a block from `clean_exif` that gives its picture's size, where it does, as `width` × `height`.

    Raises BrokenBlock where wiping the thumbnail of a hostile block took what was needed.
    """
    block = _Block(exif)
    first = block.number(4, "I")
    sizes = {_IMAGE_WIDTH: width, _IMAGE_LENGTH: height, _PIXEL_X: width, _PIXEL_Y: height}
    inner = None
    for entry in list(block.entries(first)):
        if entry.tag in (_IMAGE_WIDTH, _IMAGE_LENGTH):
            block.put(entry, sizes[entry.tag])
        elif entry.tag == _EXIF_IFD:
            inner = block.number(entry.at + 8, "I")
    if inner is not None:
        for entry in list(block.entries(inner)):
            if entry.tag in (_PIXEL_X, _PIXEL_Y):
                block.put(entry, sizes[entry.tag])
    return bytes(block.data)


def without_orientation(exif: bytes) -> bytes:
    """Return a block from `clean_exif` without the entry for orientation. Raises BrokenBlock."""
    block = _Block(exif)
    first = block.number(4, "I")
    at = next((entry.at for entry in block.entries(first) if entry.tag == _ORIENTATION), None)
    if at is None:
        return exif
    end = block.next_at(first) + 4
    block.data[at : end - 12] = block.data[at + 12 : end]
    struct.pack_into(block.order + "H", block.data, first, block.number(first, "H") - 1)
    return bytes(block.data)


def clean_xmp(xmp: bytes) -> bytes:
    """Return an XMP packet with orientation 1 and without thumbnails."""
    xmp = re.sub(rb"(tiff:Orientation\s*=\s*[\"'])\d+", rb"\g<1>1", xmp)
    xmp = re.sub(rb"(<tiff:Orientation\s*>\s*)\d+", rb"\g<1>1", xmp)
    for prefix in (b"xmp", b"xap"):
        xmp = _without(xmp, b"<" + prefix + b":Thumbnails", b"</" + prefix + b":Thumbnails>")
    return xmp


def _without(text: bytes, begin: bytes, end: bytes) -> bytes:
    """Return `text` without what stands between `begin` and `end`; unlike a pattern, in time linear in its length."""
    parts = []
    at = 0
    while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start)) >= 0:
        parts.append(text[at:start])
        at = stop + len(end)
    return b"".join([*parts, text[at:]])
