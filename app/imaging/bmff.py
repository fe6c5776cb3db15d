"""Reads the boxes of a still picture in an ISO media file (AVIF, HEIC), and writes a file of chosen items again.

Only what a still picture needs is read: the items of the `meta` box with their properties, references and data. All
work is bounded by the size of the file. Boxes that run past the end of the file are cut, so that a beginning is enough
to measure a picture.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_MAX_BOXES = 1 << 12
_MAX_ITEMS = 1 << 12
_MAX_EXTENTS = 1 << 14

Box = tuple[bytes, bytes]
"""Type of four characters, and content."""


@dataclass(slots=True)
class Item:
    """An item: its type (`av01`, `hvc1`, `grid`, `Exif`, `mime`, …), its properties in their order, and its data.

    `content_type` and `encoding` are those of `mime` items. `extents` are (offset, length) of the parts of the data;
    `in_idat` tells whether they lie in the `idat` box instead of the file.
    """

    kind: bytes = b""
    content_type: bytes = b""
    encoding: bytes = b""
    properties: list[Box] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)
    in_idat: bool = False

    def find(self, kind: bytes) -> bytes | None:
        """Return the content of the first property of this type, or None."""
        return next((content for name, content in self.properties if name == kind), None)


@dataclass(slots=True)
class MediaFile:
    """The items of a file by number, the number of the primary one, and references as (type, from, to)."""

    data: bytes
    brand: bytes
    has_tracks: bool
    primary: int = 0
    items: dict[int, Item] = field(default_factory=dict)
    references: list[tuple[bytes, int, tuple[int, ...]]] = field(default_factory=list)
    idat: bytes = b""

    def refer_to(self, kind: bytes, number: int) -> list[int]:
        """Return the numbers of the items that have a reference of this type to item `number`."""
        return [begin for name, begin, ends in self.references if name == kind and number in ends]

    def referred_from(self, kind: bytes, number: int) -> tuple[int, ...]:
        """Return the numbers of the items that item `number` refers to."""
        return next((ends for name, begin, ends in self.references if name == kind and begin == number), ())

    def read(self, item: Item, limit: int | None = None) -> bytes:
        """Return the data of an item, as far as the file has it; at most `limit` bytes, by default the file's size.

        Raises ValueError if the item is longer: its parts overlap.
        """
        source = self.idat if item.in_idat else self.data
        limit = len(self.data) if limit is None else limit
        parts, total = [], 0
        for offset, length in item.extents:
            part = source[offset : offset + length] if length else source[offset:]
            parts.append(part)
            total += len(part)
            if total > limit:
                raise ValueError("an item is larger than it can be")
        return b"".join(parts)


def read_boxes(data: bytes) -> Iterator[Box]:
    """Yield the boxes of a file or of a box's content, the last one cut where `data` ends."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        elif size == 0:
            size = len(data) - at
        if size < head:
            raise ValueError("a box is smaller than its header")
        yield kind, data[at + head : at + size]
        at += size
    raise ValueError("too many boxes")


def read_media_file(data: bytes) -> MediaFile:
    """Return the items of a file; a file of tracks alone need not have any.

    Raises ValueError, struct.error, KeyError or IndexError if its boxes are broken or missing.
    """
    meta, file = None, MediaFile(data, data[8:12], has_tracks=False)
    for kind, content in read_boxes(data):
        if kind == b"meta" and meta is None:
            meta = content[4:]
        file.has_tracks = file.has_tracks or kind == b"moov"
    boxes = dict(reversed(list(read_boxes(meta or b""))))  # the first of each type
    if file.has_tracks and b"pitm" not in boxes:
        return file
    file.idat = boxes.get(b"idat", b"")
    _read_item_infos(file, boxes[b"iinf"])
    _read_locations(file, boxes[b"iloc"])
    _read_properties(file, boxes[b"iprp"])
    if b"iref" in boxes:
        _read_references(file, boxes[b"iref"])
    file.primary = int.from_bytes(boxes[b"pitm"][4 : 6 if boxes[b"pitm"][0] == 0 else 8], "big")
    if file.primary not in file.items:
        raise ValueError("the primary item is missing")
    return file


def _read_item_infos(file: MediaFile, content: bytes) -> None:
    for kind, entry in read_boxes(content[6 if content[0] == 0 else 8 :]):
        if kind != b"infe" or entry[0] < 2:
            continue
        number, _, item_kind = struct.unpack_from(">HH4s" if entry[0] == 2 else ">IH4s", entry, 4)
        strings = entry[12 if entry[0] == 2 else 14 :].split(b"\0", 3) if item_kind == b"mime" else []
        strings += [b""] * 3
        file.items[number] = Item(item_kind, strings[1], strings[2])
    if len(file.items) > _MAX_ITEMS:
        raise ValueError("too many items")


def _read_locations(file: MediaFile, content: bytes) -> None:
    reader = _Reader(content)
    version = reader.read(4) >> 24
    sizes = reader.read(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    extents = 0
    for _ in range(reader.read(2 if version < 2 else 4)):
        number = reader.read(2 if version < 2 else 4)
        method = reader.read(2) & 15 if version else 0
        reader.read(2)  # index of another file, where the data would be
        base = reader.read(base_size)
        item = file.items.get(number, Item())
        item.in_idat = method == 1
        for _ in range(reader.read(2)):
            reader.read(index_size if version else 0)
            offset, length = reader.read(offset_size), reader.read(length_size)
            extents += 1
            if method < 2:
                item.extents.append((base + offset, length))
        if extents > _MAX_EXTENTS:
            raise ValueError("too many parts")


def _read_properties(file: MediaFile, content: bytes) -> None:
    properties: list[Box] = []
    for kind, body in read_boxes(content):
        if kind == b"ipco":
            properties = list(read_boxes(body))
        elif kind == b"ipma":
            reader = _Reader(body)
            head = reader.read(4)
            for _ in range(reader.read(4)):
                item = file.items.get(reader.read(2 if head >> 24 == 0 else 4), Item())
                for _ in range(reader.read(1)):
                    index = reader.read(2) & 0x7FFF if head & 1 else reader.read(1) & 0x7F
                    if 0 < index <= len(properties):
                        item.properties.append(properties[index - 1])


def _read_references(file: MediaFile, content: bytes) -> None:
    wide = content[0] > 0
    for kind, body in read_boxes(content[4:]):
        reader = _Reader(body)
        begin = reader.read(4 if wide else 2)
        ends = tuple(reader.read(4 if wide else 2) for _ in range(reader.read(2)))
        file.references.append((kind, begin, ends))


class _Reader:
    """Reads big-endian numbers one after the other. Raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, size: int) -> int:
        """Return the next number of `size` bytes; 0 if that is 0."""
        self._at += size
        if self._at > len(self._data):
            raise ValueError("a box is too short")
        return int.from_bytes(self._data[self._at - size : self._at], "big")


# Writing


def write_box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box of this type."""
    content = b"".join(parts)
    return struct.pack(">I4s", len(content) + 8, kind) + content


def write_media_file(
    brands: bytes,
    primary: int,
    items: dict[int, tuple[bytes, list[Box], bytes]],
    references: Iterable[tuple[bytes, int, tuple[int, ...]]],
) -> bytes:
    """Return a file of these items: number to (type, properties, data). `brands` begins with the major one.

    Equal data is written once. All properties are written as essential: a reader that does not know one must not read
    the item.
    """
    pool: dict[Box, int] = {}
    associations, infos, linked = [], [], []
    for number, (kind, properties, _) in sorted(items.items()):  # readers expect properties in this order
        indices = [pool.setdefault(entry, len(pool) + 1) for entry in properties]
        essential = [index | 0x8000 for index in indices]
        associations.append(struct.pack(f">IB{len(indices)}H", number, len(indices), *essential))
        infos.append(write_box(b"infe", b"\3\0\0\0", struct.pack(">IH4s", number, 0, kind), b"\0"))
    for kind, begin, ends in references:
        linked.append(write_box(kind, struct.pack(f">IH{len(ends)}I", begin, len(ends), *ends)))
    head = write_box(b"ftyp", brands[:4], bytes(4), brands)
    boxes = [
        write_box(b"hdlr", bytes(8), b"pict", bytes(13)),
        write_box(b"pitm", b"\1\0\0\0", struct.pack(">I", primary)),
        write_box(b"iinf", b"\1\0\0\0", struct.pack(">I", len(infos)), *infos),
        write_box(b"iref", b"\1\0\0\0", *linked) if linked else b"",
        write_box(
            b"iprp",
            write_box(b"ipco", *(write_box(*entry) for entry in pool)),
            write_box(b"ipma", b"\1\0\0\1", struct.pack(">I", len(items)), *associations),
        ),
    ]
    # Offset and length of four bytes each, so the size of the location box is known before its offsets are.
    location_size = 18 + 18 * len(items)
    at = len(head) + 12 + sum(map(len, boxes)) + location_size + 8
    entries, places = [], {}
    for number, (_, _, data) in items.items():
        if data not in places:
            places[data] = at
            at += len(data)
        entries.append(struct.pack(">IHHHII", number, 0, 0, 1, places[data], len(data)))
    location = write_box(b"iloc", b"\2\0\0\0\x44\0", struct.pack(">I", len(items)), *entries)
    media = write_box(b"mdat", *places)
    return head + write_box(b"meta", bytes(4), *boxes, location) + media
