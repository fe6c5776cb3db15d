"""JPEGs of odd encoders: what says nothing about the pixels is no damage."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.errors import BrokenImage, UnsupportedImage
from app.imaging.codec import decode
from app.imaging.picture import Picture
from tests.app.imaging.samples import DISPLAY_P3, icc_rgb, noise, sampled_jpeg, save_with_pillow, smooth

PROFILE = icc_rgb(DISPLAY_P3)
JFIF_END = 20  # of Pillow's files: the start marker and an APP0 segment


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def photo(**options: object) -> bytes:
    return save_with_pillow(smooth(48, 64, 3), "JPEG", quality=95, **options)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    return data[:JFIF_END] + b"".join(segment(*one) for one in segments) + data[JFIF_END:]


def with_profile(*parts: tuple[int, int, bytes]) -> bytes:
    """A photo with the parts (number, count, content) of a profile."""
    return with_segments(photo(), *((0xE2, b"ICC_PROFILE\0" + bytes(part[:2]) + part[2]) for part in parts))


HALVES = PROFILE[:200], PROFILE[200:]


@pytest.mark.parametrize(
    "parts",
    [
        [(1, 2, HALVES[0]), (2, 2, HALVES[1])],
        [(0, 2, HALVES[0]), (1, 2, HALVES[1])],
        [(0, 1, PROFILE)],
        [(2, 2, HALVES[1]), (1, 2, HALVES[0])],
        [(1, 3, HALVES[0]), (3, 3, HALVES[1])],
        [(1, 9, PROFILE)],
        [(1, 1, HALVES[0]), (1, 1, HALVES[1])],
        [(1, 2, HALVES[0]), (1, 2, HALVES[0]), (2, 2, HALVES[1])],
        [(1, 1, PROFILE), (1, 1, PROFILE)],
        [(1, 2, b""), (2, 2, PROFILE)],
    ],
)
def test_a_profile_is_put_together_from_odd_parts(parts: list[tuple[int, int, bytes]]) -> None:
    picture = read(with_profile(*parts))
    assert picture.metadata.icc == PROFILE
    assert picture.warnings == ()
    np.testing.assert_array_equal(picture.pixels, read(photo()).pixels)


@pytest.mark.parametrize("parts", [[(1, 1, b"")], [(1, 2, HALVES[0])], [(2, 2, HALVES[1])], [(0, 0, b"no profile")]])
def test_a_profile_with_missing_parts_is_dropped(parts: list[tuple[int, int, bytes]]) -> None:
    picture = read(with_profile(*parts))
    assert (picture.metadata.icc, picture.warnings) == (None, ("icc=dropped",))
    np.testing.assert_array_equal(picture.pixels, read(photo()).pixels)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("stray", [b"Z" * 5, b"Z" * 507, bytes(3000), b"\xff" * 300, b"ab\xff\0cd" * 40])
def test_padding_or_data_before_the_end_marker_is_ignored(stray: bytes, progressive: bool) -> None:
    data = photo(progressive=progressive)
    picture = read(data[:-2] + stray + data[-2:])
    np.testing.assert_array_equal(picture.pixels, read(data).pixels)


def test_stray_bytes_and_an_odd_profile_at_once() -> None:
    data = with_profile((0, 1, PROFILE))
    picture = read(data[:-2] + b"Z" * 300 + data[-2:] + b"a video")
    assert picture.metadata.icc == PROFILE
    np.testing.assert_array_equal(picture.pixels, read(photo()).pixels)


def test_damage_is_seen_behind_a_harmless_warning() -> None:
    """libjpeg tells its last warning only: here that of the end marker."""
    data = save_with_pillow(noise(48, 64, 3), "JPEG", restart_marker_blocks=4)
    at = data.index(b"\xff\xd1")
    without_restart = data[:at] + data[at + 2 :]
    for broken in (without_restart, without_restart[:-2] + b"Z" * 300 + without_restart[-2:]):
        with pytest.raises(BrokenImage):
            read(broken)


@pytest.mark.parametrize(("transform", "meant"), [(1, 1), (2, 1), (7, 1), (0, 0)])
def test_a_color_transform_without_jfif(transform: int, meant: int) -> None:
    """Libraries take an unknown transform of three components for YCbCr."""
    data = photo()
    adobe = segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))
    expected = Image.open(BytesIO(b"\xff\xd8" + adobe[:-1] + bytes((meant,)) + data[JFIF_END:]))
    picture = read(b"\xff\xd8" + adobe + data[JFIF_END:])
    np.testing.assert_allclose(picture.pixels.astype(int), np.asarray(expected).astype(int), atol=2)


@pytest.mark.parametrize("revision", [b"\1\0", b"\2\1", b"\0\0", b"\x63\x63"])
def test_any_revision_of_jfif(revision: bytes) -> None:
    data = photo()
    assert data[6:11] == b"JFIF\0"
    picture = read(data[:11] + revision + data[13:])
    np.testing.assert_array_equal(picture.pixels, read(data).pixels)


@pytest.mark.parametrize("factors", [0x11, 0x21, 0x22, 0x42, 0x24, 0x41, 0x14, 0x31, 0x13, 0x32])
def test_any_sampling_that_libjpeg_knows(factors: int) -> None:
    data = sampled_jpeg(factors, 16 * (factors >> 4), 16 * (factors & 15))
    expected = np.asarray(Image.open(BytesIO(data)))
    picture = read(data)
    assert np.ptp(picture.pixels) > 0
    np.testing.assert_allclose(picture.pixels.astype(int), expected.astype(int), atol=2)


def test_what_libjpeg_does_not_know_is_unsupported() -> None:
    data = photo(subsampling=0)
    at = data.index(b"\xff\xc0")
    fraction = data[: at + 11] + b"\x31" + data[at + 12 : at + 14] + b"\x21" + data[at + 15 :]
    two = data[: at + 9] + b"\2" + data[at + 10 :]
    no_height = data[: at + 5] + b"\0\0" + data[at + 7 :]
    for odd, reason in ((fraction, "whole number"), (two, "2 components"), (no_height, "height")):
        with pytest.raises(UnsupportedImage, match=reason):
            read(odd)
