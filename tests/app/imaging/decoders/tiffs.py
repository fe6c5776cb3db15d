"""Writes TIFF files of any tags, also of nonsense, for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.imaging.decoders.tiff_entries import Entry, make_directory, make_header

SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 3, 4, 5, 7, 16
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0115, 0x011C
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES, ORIENTATION = 0x0111, 0x0116, 0x0117, 0x0112
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 0x0142, 0x0143, 0x0144, 0x0145
_FORMATS = {SHORT: "H", LONG: "I", LONG8: "Q"}


@dataclass(frozen=True)
class Claim:
    """A value of `kind` that the file claims to have `count` times from byte `at` on."""

    kind: int
    count: int
    at: int


Value = int | bytes | Sequence[int] | Claim


def tiff(tags: Mapping[int, Value], body: bytes = b"", *, big: bool = False, link: int = 0, order: str = "<") -> bytes:
    """Return a file of `body`, which begins at byte 16, and a directory of `tags` behind it: numbers are LONG, bytes
    UNDEFINED. `link` is the byte of the next directory."""
    at = 16 + len(body) + len(body) % 2
    entries: list[Entry] = []
    claims: dict[int, Claim] = {}
    for tag, value in tags.items():
        if isinstance(value, Claim):
            claims[tag] = value
            entries.append((tag, value.kind, value.count, bytes(8 if big else 4)))
        elif isinstance(value, bytes):
            entries.append((tag, UNDEFINED, len(value), value))
        else:
            numbers = [value] if isinstance(value, int) else list(value)
            entries.append((tag, LONG, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers)))
    directory = bytearray(make_directory(entries, order, big, at))
    head, step, inline = (8, 20, 8) if big else (2, 12, 4)
    for place, tag in enumerate(sorted(tags)):
        if tag in claims:
            end = head + (place + 1) * step
            struct.pack_into(order + ("Q" if big else "I"), directory, end - inline, claims[tag].at)
    struct.pack_into(order + ("Q" if big else "I"), directory, head + len(tags) * step, link)
    return make_header(order, big, at).ljust(16, b"\0") + body.ljust(at - 16, b"\0") + bytes(directory)


def gray(
    width: int,
    height: int,
    body: bytes,
    more: Mapping[int, Value] | None = None,
    *,
    big: bool = False,
    compression: int = 1,
    link: int = 0,
) -> bytes:
    """Return a gray picture of one strip, which is `body`; tags in `more` are added, or replace those it has."""
    strip: dict[int, Value] = {STRIP_OFFSETS: 16, ROWS_PER_STRIP: height, STRIP_BYTES: len(body)}
    return tiff(_gray_tags(width, height, compression) | strip | dict(more or {}), body, big=big, link=link)


def tiled(width: int, height: int, tile: tuple[int, int], body: bytes, compression: int = 8) -> bytes:
    """Return a gray picture whose tiles, (width, height) each, all are `body`."""
    count = -(-width // tile[0]) * -(-height // tile[1])
    tiles: dict[int, Value] = {
        TILE_WIDTH: tile[0],
        TILE_HEIGHT: tile[1],
        TILE_OFFSETS: [16] * count,
        TILE_BYTES: [len(body)] * count,
    }
    return tiff(_gray_tags(width, height, compression) | tiles, body)


def _gray_tags(width: int, height: int, compression: int) -> dict[int, Value]:
    return {WIDTH: width, HEIGHT: height, BITS: 8, COMPRESSION: compression, PHOTOMETRIC: 1, SAMPLES: 1}
