"""TIFF answers: metadata keep their types; tifffile and Pillow judge."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from app.imaging.codec import Output, decode, encode
from app.imaging.picture import Metadata, Picture
from tests.app.imaging.samples import noise, png

ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL = 2, 3, 4, 5, 7, 10
Tag = tuple[int, int, int, bytes]


def exif_block(order: str, first: list[Tag], inner: list[Tag]) -> bytes:
    """An EXIF block with the tags (tag, type, count, value) of its first directory, and of the Exif directory."""

    def directory(tags: list[Tag], at: int) -> bytes:
        table, values = b"", b""
        values_at = at + 2 + 12 * len(tags) + 4
        for tag, kind, count, value in tags:
            inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", values_at + len(values))
            table += struct.pack(order + "HHI", tag, kind, count) + inline
            values += value if len(value) > 4 else b""
        return struct.pack(order + "H", len(tags)) + table + bytes(4) + values

    pointer = (0x8769, LONG, 1, bytes(4))
    at = 8 + len(directory([*first, pointer], 8))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    pointer = (0x8769, LONG, 1, struct.pack(order + "I", at))
    return head + directory([*first, pointer], 8) + directory(inner, at)


def tags_of(order: str) -> tuple[list[Tag], list[Tag]]:
    first = [
        (0x010E, ASCII, 8, b"caption\0"),
        (0x013B, ASCII, 7, b"artist\0"),
        (0x8298, ASCII, 10, b"copyright\0"),
    ]
    inner = [
        (0x829A, RATIONAL, 1, struct.pack(order + "II", 1, 250)),
        (0x9000, UNDEFINED, 4, b"0232"),
        (0x9101, UNDEFINED, 4, b"\1\2\3\0"),
        (0x9204, SRATIONAL, 1, struct.pack(order + "ii", -1, 3)),
        (0x927C, UNDEFINED, 9, b"maker\0\1\2\3"),
        (0x9286, UNDEFINED, 15, b"ASCII\0\0\0comment"),
        (0xA300, UNDEFINED, 1, b"\3"),
    ]
    return first, inner


def read_types(data: bytes, order: str) -> dict[int, tuple[int, int, bytes]]:
    """The type, count and value of each tag of a TIFF and its Exif directory, byte by byte."""

    def read(at: int) -> dict[int, tuple[int, int, bytes]]:
        (count,) = struct.unpack_from(order + "H", data, at)
        found = {}
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, length, value_at = struct.unpack_from(order + "HHII", data, entry)
            size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}[kind] * length
            found[tag] = kind, length, data[entry + 8 :][:size] if size <= 4 else data[value_at:][:size]
        return found

    outer = read(struct.unpack_from(order + "I", data, 4)[0])
    return {**outer, **read(struct.unpack(order + "I", outer[0x8769][2])[0])}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tags_keep_their_types_and_pixels_are_right_in_either_byte_order(
    order: str, channels: int, dtype: type
) -> None:
    array = noise(9, 7, channels, dtype)
    colors = 1 if channels < 3 else 3
    alpha = array[..., colors].copy() if channels > colors else None
    first, inner = tags_of(order)
    picture = Picture(array[..., :colors].copy(), alpha, Metadata(exif=exif_block(order, first, inner)))
    data, _ = encode(picture, Output("tiff"))
    np.testing.assert_array_equal(tifffile.imread(BytesIO(data)).reshape(array.shape), array)
    found = read_types(data, order)
    assert {tag: found[tag] for tag, *_ in (*first, *inner)} == {tag: tuple(rest) for tag, *rest in (*first, *inner)}
    judged = tifffile.TiffFile(BytesIO(data)).pages.first
    assert judged.tags["Artist"].value == "artist"
    assert judged.tags["ExifTag"].value["ExposureTime"] == (1, 250)
    again = Image.open(BytesIO(data)).getexif() if (channels, dtype) != (2, np.uint16) else Image.Exif()
    assert not again or again.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0comment"


@pytest.mark.parametrize("order", ["<", ">"])
def test_types_survive_a_way_through_tiff(order: str) -> None:
    first, inner = tags_of(order)
    picture = decode(png(noise(4, 4, 3), 2, 8, (b"eXIf", exif_block(order, first, inner))), max_pixels=100)
    tiff, _ = encode(picture, Output("tiff"))
    once = decode(tiff, max_pixels=100)
    twice = decode(encode(once, Output("tiff"))[0], max_pixels=100)
    assert once.metadata.exif is not None
    assert once.metadata.exif == twice.metadata.exif
    found = read_types(once.metadata.exif, order)
    assert {tag: found[tag] for tag, *_ in (*first, *inner)} == {tag: tuple(rest) for tag, *rest in (*first, *inner)}


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_bigtiff_keeps_the_tags_of_a_classic_one(order: str) -> None:
    blocks = []
    for big in (False, True):
        out = BytesIO()
        options: dict[str, Any] = {"description": "a caption", "resolution": (300, 300), "resolutionunit": "inch"}
        tags = [(0x013B, 2, 7, "artist", True), (0x8298, 2, 10, "copyright", True)]
        dtype = np.uint16 if order == ">" else np.uint8
        tifffile.imwrite(
            out, noise(5, 7, 3, dtype), bigtiff=big, byteorder=order, photometric="rgb", extratags=tags, **options
        )
        picture = decode(out.getvalue(), max_pixels=100)
        assert picture.warnings == ()
        assert picture.metadata.resolution == (300, 300)
        blocks.append(picture.metadata.exif)
    assert blocks[0] == blocks[1]
    block = Image.Exif()
    block.load(blocks[0] or b"")
    assert (block[0x010E], block[0x013B], block[0x8298]) == ("a caption", "artist", "copyright")
