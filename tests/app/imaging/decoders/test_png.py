"""PNGs of odd encoders, and missing rows."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.errors import BrokenImage
from app.imaging.codec import decode
from app.imaging.picture import Picture
from tests.app.imaging.samples import DISPLAY_P3, chunk, icc_rgb, noise, png, smooth

PROFILE = icc_rgb(DISPLAY_P3)


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def file_of(width: int, height: int, depth: int, color: int, raw: bytes, interlace: int = 0) -> bytes:
    """A PNG whose pixel data, before it is deflated, are `raw`."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    palette = chunk(b"PLTE", bytes(range(48))) if color == 3 else b""
    chunks = [chunk(b"IHDR", head), palette, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


KINDS = [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (4, 3), (8, 4), (16, 4), (8, 6), (16, 6)]


@pytest.mark.parametrize(("depth", "color"), KINDS)
@pytest.mark.parametrize("share", [0, 0.5, 0.9, 1])
def test_missing_rows_are_damage(depth: int, color: int, share: float) -> None:
    width, height = 13, 20
    stride = (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color] + 7) // 8
    raw = (b"\0" + b"\x11" * stride) * round(height * share)
    data = file_of(width, height, depth, color, raw)
    if share == 1:
        assert read(data).height == height
    else:
        with pytest.raises(BrokenImage):
            read(data)


def test_a_black_row_at_the_end_is_no_damage() -> None:
    array = noise(6, 9, 3)
    array[-1] = 0
    np.testing.assert_array_equal(read(png(array, 2, 8)).pixels, array)
    np.testing.assert_array_equal(read(png(np.zeros((6, 9, 1)), 0, 8)).pixels, 0)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 7), (9, 6), (8, 8)])
@pytest.mark.parametrize("missing", [0, 1, 5])
def test_missing_passes_are_damage(size: tuple[int, int], missing: int) -> None:
    width, height = size
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    array = noise(height, width, 1)[..., 0] | 1
    rows = [row for left, top, x, y in passes for row in array[top::y, left::x] if row.size]
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    data = file_of(width, height, 8, 0, raw[: max(len(raw) - missing, 0)], interlace=1)
    if missing:
        with pytest.raises(BrokenImage):
            read(data)
    else:
        np.testing.assert_array_equal(read(data).pixels[..., 0], array)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_bits_above_the_depth_do_not_count_in_a_transparent_color(depth: int) -> None:
    """Some encoders write 255 for white of 1 bit; the specification says that only the lower bits are used."""
    highest = (1 << depth) - 1
    bits = np.array([[0, highest, 0, highest]]).repeat(8 * depth // 8, axis=0)
    packed = np.packbits(
        (bits[..., None] >> np.arange(depth)[::-1] & 1).reshape(len(bits), -1).astype(np.uint8), axis=1
    )
    for key in (highest, 0xFF00 | highest, 0xFFFF):
        picture = read(png(packed[..., None], 0, depth, (b"tRNS", struct.pack(">H", key)), width=4))
        np.testing.assert_array_equal(picture.alpha, np.where(bits == highest, 0, 255))
        np.testing.assert_array_equal(picture.pixels[..., 0], np.where(bits == highest, 255, 0))


def test_bits_above_the_depth_in_a_transparent_rgb() -> None:
    array = noise(5, 7, 3)
    key = [0xAB00 | int(value) for value in array[2, 3]]
    picture = read(png(array, 2, 8, (b"tRNS", struct.pack(">3H", *key))))
    assert picture.alpha is not None
    assert picture.alpha[2, 3] == 0
    assert np.count_nonzero(picture.alpha == 0) == 1


@pytest.mark.parametrize("damage", ["none", "no checksum", "half a checksum", "wrong checksum", "trailing bytes"])
def test_the_checksum_of_a_profile_is_not_needed(damage: str) -> None:
    packed = zlib.compress(PROFILE)
    packed = {
        "none": packed,
        "no checksum": packed[:-4],
        "half a checksum": packed[:-2],
        "wrong checksum": packed[:-4] + b"abcd",
        "trailing bytes": packed + b"abcd",
    }[damage]
    picture = read(png(smooth(5, 7, 3), 2, 8, (b"iCCP", b"icc\0\0" + packed)))
    assert (picture.metadata.icc, picture.warnings) == (PROFILE, ())


@pytest.mark.parametrize(
    "content", [b"", b"icc", b"icc\0\0", b"icc\0\0nonsense", b"icc\0\0" + zlib.compress(PROFILE)[:90]]
)
def test_a_broken_profile_is_dropped_and_this_is_said(content: bytes) -> None:
    picture = read(png(smooth(5, 7, 3), 2, 8, (b"iCCP", content)))
    assert (picture.metadata.icc, picture.warnings) == (None, ("icc=dropped",))


def test_pillow_agrees_on_a_black_and_white_key() -> None:
    data = png(np.array([[0b10100000]], np.uint8)[..., None], 0, 1, (b"tRNS", b"\0\1"), width=4)
    judged = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))[..., 3]
    np.testing.assert_array_equal(read(data).alpha, judged)
