"""EXIF blocks: changes only what must change when pixels do (orientation, size, thumbnail).

A block is patched in place rather than rewritten: maker notes hold offsets from its beginning, which moving would
break.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

DESCRIPTIVE_TAGS = (
    *(0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749),
    *(0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
)
"""Tags of the first EXIF directory that describe the picture rather than its storage: safe to copy from and to TIFF."""
EXIF_DIRECTORIES = (0x8769, 0x8825)
"""Tags that point to the Exif and the GPS directory, which are safe to copy, too."""
_PREFIX = b"Exif\0\0"
_SHORT, _LONG = 3, 4
_INTEGERS = {1: "B", _SHORT: "H", _LONG: "I", 6: "b", 8: "h", 9: "i"}
"""TIFF type to struct format character."""
_ORIENTATION, _EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD = 0x0112, 0x8769, 0x8825, 0xA005
_IMAGE_WIDTH, _IMAGE_LENGTH, _PIXEL_X, _PIXEL_Y = 0x0100, 0x0101, 0xA002, 0xA003
_THUMBNAIL_AT, _THUMBNAIL_LENGTH, _STRIPS_AT, _STRIP_LENGTHS = 0x0201, 0x0202, 0x0111, 0x0117
_MAX_SPANS = 64
_MAX_BYTES = 1 << 24
_MAX_ENTRIES = 4096
_MAX_NUMBERS = 1 << 16
_MAX_OVERLAP = 4
_BYTE_KINDS = (1, 2, 6, 7)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


class InvalidExif(ValueError):
    """An EXIF block that cannot be parsed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A directory entry at byte `at`: its tag, TIFF type and number of values."""

    tag: int
    kind: int
    count: int
    at: int


class _Block:
    """An EXIF block, which is a small TIFF, read and patched in place. Raises InvalidExif for offsets outside of it.

    The work is bounded, also for a library that reads the block later: a block has at most _MAX_ENTRIES entries and
    _MAX_NUMBERS numbers in all directories together, and its values cover it at most _MAX_OVERLAP times.
    """

    def __init__(self, data: bytes) -> None:
        if data[:4] not in (b"II*\0", b"MM\0*") or len(data) > _MAX_BYTES:
            raise InvalidExif("no TIFF header, or too large")
        self.data = bytearray(data)
        self.order = "<" if data[:1] == b"I" else ">"
        self._entries = self._numbers = self._value_bytes = 0

    def read_number(self, at: int, kind: str) -> int:
        """Return the number at byte `at`; `kind` is its struct format character."""
        try:
            return int(struct.unpack_from(self.order + kind, self.data, at)[0])
        except struct.error:
            raise InvalidExif("an offset points outside the block") from None

    def read_entries(self, at: int) -> Iterator[_Entry]:
        """Yield the entries of the directory at byte `at`."""
        for i in range(self.read_number(at, "H")):
            entry = at + 2 + 12 * i
            tag, kind = self.read_number(entry, "H"), self.read_number(entry + 2, "H")
            found = _Entry(tag, kind, self.read_number(entry + 4, "I"), entry)
            self._count(found)
            yield found

    def _count(self, entry: _Entry) -> None:
        """Add an entry to those of the whole block. Raises InvalidExif for too many, or too many values."""
        size = _SIZES.get(entry.kind, 0) * entry.count
        self._entries += 1
        if size > 4:  # a count may be wrong without harm; readers stop at the end of the block
            held = min(size, max(len(self.data) - self.read_number(entry.at + 8, "I"), 0))
            self._value_bytes += held
            self._numbers += held // _SIZES[entry.kind] if entry.kind not in _BYTE_KINDS else 0
        if (
            self._entries > _MAX_ENTRIES
            or self._numbers > _MAX_NUMBERS
            or self._value_bytes > _MAX_OVERLAP * len(self.data)
        ):
            raise InvalidExif("too many entries or values")

    def read_directories(self) -> Iterator[tuple[int, _Entry]]:
        """Yield (byte of the directory, entry) for the first directory and all it points to, each directory once."""
        pending, seen = [self.read_number(4, "I")], set[int]()
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            seen.add(at)
            for entry in self.read_entries(at):
                if entry.tag in (_EXIF_IFD, _GPS_IFD, _INTEROPERABILITY_IFD):
                    below = self.read_number(entry.at + 8, "I")
                    if entry.tag == _EXIF_IFD or 8 <= below <= len(self.data) - 2:  # the others are often broken
                        pending.append(below)
                yield at, entry

    def find_link(self, at: int) -> int:
        """Return where the directory at byte `at` holds the offset of the next one."""
        return at + 2 + 12 * self.read_number(at, "H")

    def read_values(self, entry: _Entry, most: int = _MAX_SPANS) -> list[int]:
        """Return the values of an entry of integers, at most the first `most`, or [] for other types."""
        kind = _INTEGERS.get(entry.kind)
        if kind is None:
            return []
        size = _SIZES[entry.kind]
        at = entry.at + 8 if size * entry.count <= 4 else self.read_number(entry.at + 8, "I")
        return [self.read_number(at + size * i, kind) for i in range(min(entry.count, most))]

    def write_value(self, entry: _Entry, value: int) -> None:
        """Set the entry to one number: SHORT if it was that type and the value fits, LONG otherwise."""
        if entry.kind == _SHORT and value <= 65535:
            struct.pack_into(self.order + "HIHH", self.data, entry.at + 2, _SHORT, 1, value, 0)
        else:
            struct.pack_into(self.order + "HII", self.data, entry.at + 2, _LONG, 1, value)

    def zero(self, begin: int, end: int) -> None:
        """Overwrite bytes `begin` to `end`, as far as they exist, with zeros."""
        begin, end = min(begin, len(self.data)), min(end, len(self.data))
        self.data[begin:end] = bytes(max(end - begin, 0))


def clean_exif(raw: bytes) -> tuple[int | None, bytes]:
    """Return the orientation of an EXIF block (see `read_orientation`), and the block with 1 and without thumbnail.

    The thumbnail's bytes are overwritten with zeros, not just unlinked: it may show what is later removed from the
    picture. Raises InvalidExif.
    """
    block = _Block(raw.removeprefix(_PREFIX))
    first = block.read_number(4, "I")
    orientation = None
    # All directories are read, so that one outside the block, or too much work for a later reader, raises here.
    for directory, entry in block.read_directories():
        if directory == first and entry.tag == _ORIENTATION:
            orientation = orientation or _read_orientation_entry(block, entry)
            struct.pack_into(block.order + "HIHH", block.data, entry.at + 2, _SHORT, 1, 1, 0)
    link = block.find_link(first)
    if link + 4 > len(block.data):  # some cameras end the block before the empty link
        return orientation, bytes(block.data)
    second = block.read_number(link, "I")
    if second:
        _zero_directory(block, second)
        struct.pack_into("4s", block.data, link, bytes(4))
    return orientation, bytes(block.data)


def read_orientation(raw: bytes) -> int | None:
    """Return the orientation (1 to 8) of an EXIF block that may be broken after it, None if none is found.

    Some writers store it as another type of integer than SHORT; viewers turn the picture all the same.
    """
    try:
        block = _Block(raw.removeprefix(_PREFIX))
        entries = block.read_entries(block.read_number(4, "I"))
        return next((_read_orientation_entry(block, entry) for entry in entries if entry.tag == _ORIENTATION), None)
    except InvalidExif:
        return None


def _read_orientation_entry(block: _Block, entry: _Entry) -> int | None:
    values = block.read_values(entry, 1)
    return values[0] if values and 1 <= values[0] <= 8 else None


def _zero_directory(block: _Block, at: int) -> None:
    """Overwrite a thumbnail's directory, the values it points to, and its pixels."""
    found: dict[int, list[int]] = {}
    spans = [(at, block.find_link(at) + 4)]
    for entry in block.read_entries(at):
        if entry.tag in (_THUMBNAIL_AT, _THUMBNAIL_LENGTH, _STRIPS_AT, _STRIP_LENGTHS):
            if entry.count > _MAX_SPANS:
                raise InvalidExif("the thumbnail has too many parts")
            found[entry.tag] = block.read_values(entry)
        size = _SIZES.get(entry.kind, 1) * entry.count
        if size > 4:
            start = block.read_number(entry.at + 8, "I")
            spans.append((start, start + size))
    for offsets, lengths in ((_THUMBNAIL_AT, _THUMBNAIL_LENGTH), (_STRIPS_AT, _STRIP_LENGTHS)):
        pairs = zip(found.get(offsets, []), found.get(lengths, []), strict=False)
        spans += [(offset, offset + length) for offset, length in pairs]
    if len(spans) > _MAX_SPANS:
        raise InvalidExif("the thumbnail has too many parts")
    done = 0
    for begin, end in sorted(spans):  # overlapping spans would cost as many times the block
        block.zero(max(begin, done), end)
        done = max(done, end)


def resize_exif(exif: bytes, width: int, height: int) -> bytes:
    """Return a block from `clean_exif` with the picture's size, if it holds one, set to `width` × `height`.

    Raises InvalidExif if removing the thumbnail of a malicious block destroyed its directories.
    """
    block = _Block(exif)
    first = block.read_number(4, "I")
    sizes = {_IMAGE_WIDTH: width, _IMAGE_LENGTH: height, _PIXEL_X: width, _PIXEL_Y: height}
    inner = None
    for entry in list(block.read_entries(first)):
        if entry.tag in (_IMAGE_WIDTH, _IMAGE_LENGTH):
            block.write_value(entry, sizes[entry.tag])
        elif entry.tag == _EXIF_IFD:
            inner = block.read_number(entry.at + 8, "I")
    if inner is not None:
        for entry in list(block.read_entries(inner)):
            if entry.tag in (_PIXEL_X, _PIXEL_Y):
                block.write_value(entry, sizes[entry.tag])
    return bytes(block.data)


def remove_orientation(exif: bytes) -> bytes:
    """Return a block from `clean_exif` without the orientation entry. Raises InvalidExif."""
    block = _Block(exif)
    first = block.read_number(4, "I")
    at = next((entry.at for entry in block.read_entries(first) if entry.tag == _ORIENTATION), None)
    if at is None:
        return exif
    end = block.find_link(first) + 4
    block.data[at : end - 12] = block.data[at + 12 : end]
    struct.pack_into(block.order + "H", block.data, first, block.read_number(first, "H") - 1)
    return bytes(block.data)
