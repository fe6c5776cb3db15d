"""Boxes of AVIF and HEIC: what is read, what is bounded, and what reaches the decoder."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.errors import AnimatedImage, BrokenImage, ServiceError, TooManyPixels, UnsupportedImage
from app.imaging.bmff import Box, read_boxes, read_media_file, write_box, write_media_file
from app.imaging.codec import decode, measure
from app.imaging.coded_headers import read_av1_headers
from app.imaging.picture import Picture
from tests.app.imaging.samples import noise, save_with_pillow, smooth

MANY = 10**7
BRANDS = b"avifmif1miaf"


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=MANY)


def coded(pixels: NDArray[Any], **options: Any) -> tuple[list[Box], bytes]:
    """The properties and the data of one coded picture, as libavif writes them."""
    file = read_media_file(save_with_pillow(pixels, "AVIF", **{"quality": 95, "subsampling": "4:4:4", **options}))
    item = file.items[file.primary]
    return item.properties, file.read(item)


def avif(pixels: NDArray[Any], *more: Box) -> bytes:
    """An AVIF of one picture with further properties."""
    properties, data = coded(pixels)
    return write_media_file(BRANDS, 1, {1: (b"av01", properties + list(more), data)}, [])


def extent(width: int, height: int) -> Box:
    return b"ispe", struct.pack(">III", 0, width, height)


def clean_aperture(*numbers: int) -> Box:
    return b"clap", struct.pack(">IIIIiIiI", *numbers)


def grid(columns: int, rows: int, width: int, height: int, tile: NDArray[Any], **options: Any) -> bytes:
    """A grid that shows the same tile several times."""
    properties, data = coded(tile)
    numbers = tuple(range(2, 2 + columns * rows))
    head = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    shared = [entry for entry in properties if entry[0] in options.get("shared", (b"pixi",))]
    items = {1: (b"grid", [extent(width, height), *shared], head)}
    items |= dict.fromkeys(numbers, (b"av01", properties, data))
    return write_media_file(BRANDS, 1, items, [(b"dimg", 1, options.get("tiles", numbers))])


# Transformations, each applied once and in their order


def test_a_clean_aperture() -> None:
    """Width 8 and height 6 around a center that lies 2 to the right and 1 up."""
    pixels = smooth(20, 30, 3)
    aperture = clean_aperture(8, 1, 6, 1, 2, 1, -1, 1)
    found = read(avif(pixels, aperture)).pixels
    np.testing.assert_array_equal(found, read(avif(pixels)).pixels[6:12, 13:21])


def test_a_clean_aperture_beyond_the_picture_is_cut_and_an_invalid_one_ignored() -> None:
    pixels = smooth(20, 30, 3)
    assert read(avif(pixels, clean_aperture(8, 1, 6, 1, 14, 1, 0, 1))).pixels.shape == (6, 5, 3)
    for numbers in ((8, 0, 6, 1, 0, 1, 0, 1), (0, 1, 6, 1, 0, 1, 0, 1), (8, 1, 6, 1, 1000, 1, 0, 1)):
        assert read(avif(pixels, clean_aperture(*numbers))).pixels.shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("box", "turn"),
    [
        ((b"irot", b"\1"), lambda p: np.rot90(p)),
        ((b"irot", b"\2"), lambda p: p[::-1, ::-1]),
        ((b"irot", b"\3"), lambda p: np.rot90(p, 3)),
        ((b"imir", b"\0"), lambda p: p[::-1]),
        ((b"imir", b"\1"), lambda p: p[:, ::-1]),
    ],
)
def test_rotation_and_mirror(box: Box, turn: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    pixels = smooth(20, 30, 3)
    np.testing.assert_array_equal(read(avif(pixels, box)).pixels, turn(read(avif(pixels)).pixels))


def test_transformations_are_applied_in_their_order() -> None:
    pixels = smooth(20, 30, 3)
    aperture, turn, mirror = clean_aperture(8, 1, 6, 1, 2, 1, -1, 1), (b"irot", b"\1"), (b"imir", b"\0")
    found = read(avif(pixels, aperture, turn, mirror)).pixels
    np.testing.assert_array_equal(found, np.rot90(read(avif(pixels)).pixels[6:12, 13:21])[::-1])


def test_the_orientation_in_exif_is_not_applied_again() -> None:
    """Pillow writes the orientation as `irot` and `imir`; phones leave it in EXIF, too."""
    pixels = smooth(20, 30, 3)
    file = read_media_file(avif(pixels, (b"irot", b"\3")))
    note = struct.pack(">I", 0) + b"II*\0\x08\0\0\0" + struct.pack("<HHHIIH", 1, 0x0112, 3, 1, 6, 0) + bytes(2)
    items = {1: (b"av01", file.items[1].properties, file.read(file.items[1])), 2: (b"Exif", [], note)}
    picture = read(write_media_file(BRANDS, 1, items, [(b"cdsc", 2, (1,))]))
    np.testing.assert_array_equal(picture.pixels, np.rot90(read(avif(pixels)).pixels, 3))
    assert picture.metadata.exif == note[4:].replace(b"\x06\0\0\0\0\0", b"\x01\0\0\0\0\0")


# Parts


@pytest.mark.parametrize("shared", [(b"pixi",), (b"pixi", b"colr")])
def test_a_grid(shared: tuple[bytes, ...]) -> None:
    """The grid names its color encoding, or leaves that to its tiles."""
    tile = smooth(64, 64, 3)
    found = read(grid(2, 1, 100, 64, tile, shared=shared)).pixels
    one = read(avif(tile)).pixels
    np.testing.assert_array_equal(found, np.concatenate([one, one], axis=1)[:, :100])


@pytest.mark.parametrize(
    "file",
    [
        lambda tile: grid(2, 1, 200, 64, tile),
        lambda tile: grid(3, 1, 100, 64, tile),
        lambda tile: grid(2, 1, 100, 64, tile, tiles=(2,)),
        lambda tile: grid(2, 1, 100, 64, tile, tiles=()),
        lambda tile: grid(2, 1, 100, 64, tile, tiles=(1, 2)),
        lambda tile: grid(2, 1, 100, 64, tile, tiles=(2, 9)),
    ],
)
def test_a_grid_whose_tiles_do_not_fit_it_is_broken(file: Callable[[NDArray[Any]], bytes]) -> None:
    with pytest.raises(BrokenImage):
        read(file(smooth(64, 64, 3)))


def test_metadata_wherever_it_lies() -> None:
    """In an `idat` box, in two parts, and after the coded picture."""
    pixels = smooth(20, 30, 3)
    data = save_with_pillow(pixels, "AVIF", xmp=b"<x:xmpmeta/>", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(6))
    assert read(data).metadata.xmp == b"<x:xmpmeta/>"
    assert read(data).metadata.exif == b"II*\0\x08\0\0\0" + bytes(6)
    moved = data[:32] + write_box(b"free", bytes(100_000)) + data[32:]
    shifted = bytearray(moved)
    at = shifted.index(b"iloc")
    for _ in range(int.from_bytes(shifted[at + 10 : at + 12], "big")):
        old = struct.unpack_from(">I", shifted, at + 18)[0]
        struct.pack_into(">I", shifted, at + 18, old + 100_008)
        at += 14
    assert read(bytes(shifted)).metadata == read(data).metadata
    np.testing.assert_array_equal(read(bytes(shifted)).pixels, read(data).pixels)


# Bounds


def test_the_coded_size_is_compared_with_the_limit_and_the_container() -> None:
    """A container that says 16 × 16 of a picture coded as 1000 × 600."""
    properties, data = coded(np.zeros((600, 1000, 1), np.uint8), quality=10, speed=10)
    lie = write_media_file(BRANDS, 1, {1: (b"av01", [extent(16, 16), *properties[1:]], data)}, [])
    assert len(lie) < 4000
    assert measure(lie, max_pixels=MANY) == (1000, 600)
    for check in (measure, decode):
        with pytest.raises(TooManyPixels):
            check(lie, max_pixels=500_000)
    with pytest.raises(BrokenImage):
        read(lie)


def test_transparency_and_tiles_are_compared_too() -> None:
    properties, data = coded(smooth(16, 16, 3))
    large, large_data = coded(np.zeros((600, 1000, 1), np.uint8), quality=10, speed=10)
    alpha = (b"auxC", bytes(4) + b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    hidden = [extent(16, 16), *large[1:], alpha]
    lie = write_media_file(
        BRANDS, 1, {1: (b"av01", properties, data), 2: (b"av01", hidden, large_data)}, [(b"auxl", 2, (1,))]
    )
    tile = write_media_file(
        BRANDS,
        1,
        {
            1: (b"grid", [extent(16, 16)], struct.pack(">BBBBHH", 0, 0, 0, 0, 16, 16)),
            2: (b"av01", hidden, large_data),
        },
        [(b"dimg", 1, (2,))],
    )
    for file in (lie, tile):
        with pytest.raises(TooManyPixels):
            decode(file, max_pixels=500_000)
        with pytest.raises(BrokenImage):
            read(file)


def test_many_frames_in_one_picture_are_refused() -> None:
    """Each costs as much as the one that is shown."""
    properties, data = coded(smooth(16, 16, 3))
    frame = data[data.index(b"\x32") :]
    many = write_media_file(BRANDS, 1, {1: (b"av01", properties, data + frame * 10)}, [])
    with pytest.raises(UnsupportedImage, match="11 frames"):
        read(many)


def test_a_part_that_is_used_many_times_does_not_cost_more_than_the_file() -> None:
    data = bytearray(avif(smooth(200, 300, 3)))
    at = data.index(b"iloc")
    entry = bytes(data[at + 14 : at + 22]) + struct.pack(">H", 200) + bytes(data[at + 24 : at + 32]) * 200
    boxes = dict(read_boxes(bytes(data)))
    meta = b"".join(
        write_box(kind, bytes(content[:10]) + entry if kind == b"iloc" else content)
        for kind, content in read_boxes(boxes[b"meta"][4:])
    )
    bomb = write_box(b"ftyp", boxes[b"ftyp"]) + write_box(b"meta", bytes(4), meta) + write_box(b"mdat", boxes[b"mdat"])
    with pytest.raises(BrokenImage):
        read(bomb)


@pytest.mark.timeout(20)
def test_tiles_whose_data_overlaps_are_refused() -> None:
    """A thousand tiles that all begin in one place, each a byte longer than the one before."""
    file = bytearray(grid(32, 32, 2048, 2048, noise(64, 64, 3)))
    at = file.index(b"iloc") + 14
    ends = [int.from_bytes(file[at + 18 * i + 14 : at + 18 * i + 18], "big") for i in range(1025)]
    for i in range(1, 1025):
        struct.pack_into(">I", file, at + 18 * i + 14, ends[i] - i % 1000)
    with pytest.raises(BrokenImage):
        read(bytes(file))


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x10ftypavif\0\0\0\0",
        b"\0\0\0\x10ftypavif\0\0\0\0" + write_box(b"meta", bytes(4)),
        b"\0\0\0\x10ftypavif\0\0\0\0" + struct.pack(">I4s", 4, b"meta"),
        b"\0\0\0\x10ftypavif\0\0\0\0" + write_box(b"free") * 10_000,
        b"\0\0\0\x10ftypavif\0\0\0\0" + struct.pack(">I4sQ", 1, b"meta", 2**63),
    ],
)
def test_broken_boxes(data: bytes) -> None:
    for check in (measure, decode):
        with pytest.raises(BrokenImage):
            check(data, max_pixels=MANY)


def test_a_picture_of_another_coding_is_unsupported() -> None:
    properties, data = coded(smooth(16, 16, 3))
    with pytest.raises(UnsupportedImage, match="'jpeg'"):
        read(write_media_file(BRANDS, 1, {1: (b"jpeg", properties, data)}, []))


def test_a_sequence_is_an_animation() -> None:
    frames = [smooth(16, 16, 3), smooth(16, 16, 3)[::-1]]
    images = [Image.fromarray(frame) for frame in frames]
    data = save_with_pillow(images[0], "AVIF", save_all=True, append_images=images[1:])
    for check in (measure, decode):
        with pytest.raises(AnimatedImage):
            check(data, max_pixels=MANY)


def test_every_cut_and_every_changed_byte_of_the_boxes_is_answered() -> None:
    data = grid(2, 1, 30, 16, smooth(16, 16, 3))
    at = data.index(b"mdat")
    for place in range(8, at):
        for value in (0, 0xFF):
            changed = data[:place] + bytes((value,)) + data[place + 1 :]
            try:
                picture = decode(changed, max_pixels=5000)
            except ServiceError:
                continue
            assert picture.width * picture.height <= 5000


@pytest.mark.parametrize("size", [(1, 1), (16, 300), (999, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_header_of_av1(size: tuple[int, int], channels: int) -> None:
    _, data = coded(smooth(*size, channels), subsampling="4:0:0" if channels == 1 else "4:2:0")
    headers, frames = read_av1_headers(data)
    assert [(header.height, header.width, header.depth, header.gray) for header in headers] == [
        (*size, 8, channels == 1)
    ]
    assert frames == 1
