"""The work that an EXIF block may cost: each directory once, and so many entries, numbers and bytes in all."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest

from app.imaging import exif
from app.imaging.exif import InvalidExif, clean_exif, read_orientation
from tests.app.imaging import samples

Entry = tuple[int, int, int, int]
"""Tag, TIFF type, number of values, value or offset."""
ORIENTATION, STRIPS, EXIF, GPS, INTEROPERABILITY = 0x0112, 0x0111, 0x8769, 0x8825, 0xA005
BYTE, SHORT, LONG, RATIONAL, SIGNED_BYTE, UNDEFINED, SIGNED_SHORT, SIGNED_LONG = 1, 3, 4, 5, 6, 7, 8, 9


def directory(entries: list[Entry], link: int = 0) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", link)


def block(entries: list[Entry], rest: bytes = b"", link: int = 0) -> bytes:
    """An EXIF block of one directory with `rest` behind it."""
    return b"II*\0" + struct.pack("<I", 8) + directory(entries, link) + rest


def end(entries: int) -> int:
    """Where `rest` begins behind so many entries."""
    return 8 + 2 + 12 * entries + 4


def count_reads(monkeypatch: pytest.MonkeyPatch, function: Callable[[], object]) -> int:
    """Return how many numbers `function` reads from blocks, whether it succeeds or not."""
    reads = 0
    original = exif._Block.read_number

    def counting(self: exif._Block, at: int, kind: str) -> int:
        nonlocal reads
        reads += 1
        return original(self, at, kind)

    monkeypatch.setattr(exif._Block, "read_number", counting)
    with contextlib.suppress(InvalidExif):
        function()
    return reads


def test_a_directory_that_points_to_itself_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looped = block([(EXIF, LONG, 1, 8)] * 1000)
    assert count_reads(monkeypatch, lambda: clean_exif(looped)) < 10 * 1000


def test_directories_that_point_to_each_other_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = [(GPS, LONG, 1, 8), (INTEROPERABILITY, LONG, 1, end(500))] * 250
    looped = block([(EXIF, LONG, 1, end(500))] * 500, directory(inner))
    assert count_reads(monkeypatch, lambda: clean_exif(looped)) < 10 * 1000


@pytest.mark.parametrize("count", [1, 60_000, 2**31])
def test_one_value_of_an_orientation_is_read(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    entry = (ORIENTATION, SHORT, count, end(1) if count > 1 else 6)
    found = block([entry], struct.pack("<H", 6) * 60_000)
    assert count_reads(monkeypatch, lambda: clean_exif(found)) < 20
    assert read_orientation(found) == 6


def test_many_strips_of_a_thumbnail_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    second = directory([(STRIPS, SHORT, 60_000, 40)] * 1000)
    found = block([], second + bytes(120_000), link=end(0))
    with pytest.raises(InvalidExif):
        clean_exif(found)
    assert count_reads(monkeypatch, lambda: clean_exif(found)) < 100


def test_overlapping_parts_of_a_thumbnail_are_overwritten_once(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 100_000
    second = directory([(0x9000 + i, UNDEFINED, size // 20, end(0) + 700) for i in range(50)])
    found = block([], second + b"x" * size, link=end(0))
    zeroed = 0
    original = exif._Block.zero

    def counting(self: exif._Block, begin: int, stop: int) -> None:
        nonlocal zeroed
        zeroed += max(stop - begin, 0)
        original(self, begin, stop)

    monkeypatch.setattr(exif._Block, "zero", counting)
    clean_exif(found)
    assert 0 < zeroed < size


@pytest.mark.parametrize(
    ("entries", "rest"),
    [
        ([(0x9000 + i, SHORT, 1, 0) for i in range(exif._MAX_ENTRIES + 1)], b""),
        ([(0x011A, RATIONAL, exif._MAX_NUMBERS + 1, end(1))], bytes(8 * exif._MAX_NUMBERS + 8)),
        ([(0xA500 + i, UNDEFINED, 90_000, end(5)) for i in range(5)], bytes(100_000)),
    ],
    ids=["entries", "numbers", "bytes"],
)
def test_a_block_with_too_much_in_it_is_invalid(entries: list[Entry], rest: bytes) -> None:
    with pytest.raises(InvalidExif):
        clean_exif(block(entries, rest))
    deep = block([(EXIF, LONG, 1, end(1))], directory(entries) + bytes(12) + rest)
    with pytest.raises(InvalidExif):
        clean_exif(deep)


def test_usual_blocks_keep_within_the_limits() -> None:
    rest = bytes(200_000)
    maker_note = (0x927C, UNDEFINED, 200_000, end(2))
    wrong_count = (0xA500, UNDEFINED, 2**31, end(2))
    assert clean_exif(block([maker_note, wrong_count], rest))[0] is None
    assert clean_exif(samples.exif(6, thumbnail=b"x" * 5000))[0] == 6


@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG, SIGNED_BYTE, SIGNED_SHORT, SIGNED_LONG])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_may_be_any_type_of_integer(kind: int, order: str) -> None:
    value = struct.pack(order + {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind], 6).ljust(4, b"\0")
    entry = struct.pack(order + "HHHI", 1, ORIENTATION, kind, 1) + value + bytes(4)
    found = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + entry
    orientation, cleaned = clean_exif(found)
    assert orientation == read_orientation(found) == 6
    assert cleaned[8:] == struct.pack(order + "HHHIHHI", 1, ORIENTATION, SHORT, 1, 1, 0, 0)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_says_nothing(value: int) -> None:
    assert clean_exif(block([(ORIENTATION, SHORT, 1, value)]))[0] is None
    assert clean_exif(block([(0x010F, 2, 4, 0)]))[0] is None


@pytest.mark.parametrize("offset", [0, 2**31])
def test_a_gps_pointer_to_nowhere_is_harmless(offset: int) -> None:
    found = block([(ORIENTATION, SHORT, 1, 3), (GPS, LONG, 1, offset)])
    assert clean_exif(found)[0] == 3
