"""Copies entries of a TIFF's directories, with the type that they have in the file."""

from __future__ import annotations

import struct
from collections.abc import Container

MAX_VALUE_BYTES = 1 << 24
"""Values of all entries that are copied from a directory."""
_MAX_ENTRIES = 4096
_LONG = 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

Entry = tuple[int, int, int, bytes]
"""Tag, TIFF type, number of values, and the values."""


def read_entries(data: bytes, order: str, big: bool, at: int, tags: Container[int] | None = None) -> list[Entry]:
    """Return the entries of the directory at byte `at` whose tag is in `tags`, or all of them.

    `order` is `<` or `>`, `big` whether the file is a BigTIFF. Entries of unknown types are left out. Raises ValueError
    for too many entries and for values that are too large or end behind the file, struct.error if the directory does.
    """
    layout, inline, step = ("Q", 8, 20) if big else ("I", 4, 12)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if count > _MAX_ENTRIES:
        raise ValueError("a directory has too many entries")
    first = at + (8 if big else 2)
    entries, total = [], 0
    for entry in range(first, first + count * step, step):
        tag, kind, length = struct.unpack_from(order + "HH" + layout, data, entry)
        if kind not in _SIZES or (tags is not None and tag not in tags):
            continue
        size, begin = length * _SIZES[kind], entry + step - inline
        if size > inline:
            (begin,) = struct.unpack_from(order + layout, data, begin)
        total += size
        if total > MAX_VALUE_BYTES or begin + size > len(data):
            raise ValueError("the values of the tags are too large")
        entries.append((tag, kind, length, data[begin : begin + size]))
    return entries


def make_directory(entries: list[Entry], order: str, big: bool, at: int) -> bytes:
    """Return a directory for byte `at`, sorted by tag, with its values behind it and without a next one."""
    layout, inline = ("Q", 8) if big else ("I", 4)
    head = struct.pack(order + ("Q" if big else "H"), len(entries))
    values_at = at + len(head) + len(entries) * (4 + 2 * inline) + inline
    table, values = bytearray(), bytearray()
    for tag, kind, count, value in sorted(entries):
        table += struct.pack(order + "HH" + layout, tag, kind, count)
        if len(value) <= inline:
            table += value.ljust(inline, b"\0")
        else:
            table += struct.pack(order + layout, values_at + len(values))
            values += value + bytes(len(value) % 2)
    return head + table + bytes(inline) + values


def make_directories(entries: list[Entry], inner: dict[int, list[Entry]], order: str, at: int) -> bytes:
    """Return a directory for byte `at` of a file that is no BigTIFF, and behind it those that it points to, by tag."""
    pointers = dict.fromkeys(inner, 0)

    def make() -> bytes:
        own = [(tag, _LONG, 1, struct.pack(order + "I", pointer)) for tag, pointer in pointers.items()]
        return make_directory([*entries, *own], order, False, at)

    end = at + len(make())
    parts = []
    for tag, below in inner.items():
        pointers[tag] = end
        parts.append(make_directory(below, order, False, end))
        end += len(parts[-1])
    return b"".join([make(), *parts])


def make_header(order: str, big: bool, at: int) -> bytes:
    """Return the header of a file whose first directory is at byte `at`."""
    mark = b"II" if order == "<" else b"MM"
    return mark + (struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI", 42, at))
