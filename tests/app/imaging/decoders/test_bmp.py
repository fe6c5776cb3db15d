"""BMP: run-length coding, bit fields and profiles."""

from __future__ import annotations

import contextlib
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.errors import BrokenImage, UnsupportedImage
from app.imaging.codec import decode, measure
from tests.app.imaging.samples import DISPLAY_P3, icc_rgb, noise

END_OF_ROW, END, SKIP = b"\0\0", b"\0\1", b"\0\2"


def bmp(width: int, height: int, coded: bytes, *, bits: int = 8, gray: bool = False) -> bytes:
    """A file whose palette has blue 255 - i and green i for color i, or gray levels."""
    colors = 1 << bits
    palette = b"".join(bytes((i, i, i, 0) if gray else (255 - i, i, 0, 0)) for i in range(colors))
    begin = 54 + len(palette)
    head = struct.pack("<IHHI", begin + len(coded), 0, 0, begin)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 2 if bits == 4 else 1, len(coded), 0, 0, colors, 0)
    return b"BM" + head + info + palette + coded


def colors(data: bytes) -> list[list[int]]:
    """Return the color numbers of a picture from `bmp`."""
    numbers: list[list[int]] = decode(data, max_pixels=10**8).pixels[..., 1].tolist()
    return numbers


def test_runs_literals_and_skips() -> None:
    coded = b"\3\7" + b"\0\3\1\2\3\0" + END_OF_ROW + b"\2\5" + SKIP + b"\1\1" + b"\3\6" + END
    assert colors(bmp(6, 3, coded)) == [[0, 0, 0, 6, 6, 6], [5, 5, 0, 0, 0, 0], [7, 7, 7, 1, 2, 3]]


def test_four_bits() -> None:
    coded = b"\5\x12" + END_OF_ROW + b"\0\5\x12\x34\x50\0" + END
    assert colors(bmp(5, 2, coded, bits=4)) == [[1, 2, 3, 4, 5], [1, 2, 1, 2, 1]]


def test_a_gray_palette_gives_a_gray_picture() -> None:
    picture = decode(bmp(4, 1, b"\4\x80" + END, gray=True), max_pixels=100)
    np.testing.assert_array_equal(picture.pixels, np.full((1, 4, 1), 128))


def test_a_file_that_ends_within_a_row_is_broken() -> None:
    with pytest.raises(BrokenImage):
        decode(bmp(4, 2, b"\4\1" + END_OF_ROW + b"\2"), max_pixels=100)


@pytest.mark.parametrize(
    "coded", [END_OF_ROW, SKIP + b"\0\0", b"\0\3", b"\1\0"], ids=["rows", "skips", "zeros", "runs"]
)
@pytest.mark.timeout(60)
def test_megabytes_of_runs_take_no_step_of_python_each(coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("PIL.BmpImagePlugin.BmpRleDecoder.decode")
    with contextlib.suppress(BrokenImage):
        decode(bmp(4000, 4000, coded * (8_000_000 // len(coded))), max_pixels=10**8)


def fields(pixels: list[list[int]], masks: tuple[int, ...], bits: int = 32, length: int = 124, **change: int) -> bytes:
    """A file of 16 or 32 bits per pixel, from the top row down; `masks` are those of red, green, blue and alpha."""
    height, width = len(pixels), len(pixels[0])
    rows = [struct.pack(f"<{width}{'H' if bits == 16 else 'I'}", *row) for row in pixels]
    body = b"".join(row + bytes(-len(row) % 4) for row in rows[:: change.get("direction", -1)])
    compression = change.get("compression", 3)
    info = struct.pack(
        "<IiiHHIIiiII", length, width, height * -change.get("direction", -1), 1, bits, compression, 0, 0, 0, 0, 0
    )
    info = (info + struct.pack("<4I", *masks)[: 12 if length == 40 and compression == 3 else 16]).ljust(length, b"\0")
    begin = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", begin + len(body), 0, 0, begin) + info + body


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (32, (0xFF0000, 0xFF00, 0xFF, 0)),
        (32, (0xFF, 0xFF00, 0xFF0000, 0)),
        (32, (0xFF00, 0xFF0000, 0xFF, 0)),
        (32, (0xFF00, 0xFF0000, 0xFF, 0xFF000000)),
        (32, (0x7F800000, 0x3FC00, 0x1FE, 0)),
        (32, (0xF000, 0xF0, 0xF, 0xF00)),
        (16, (0xF800, 0x7E0, 0x1F, 0)),
        (16, (0x1F, 0x7E0, 0xF800, 0)),
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
        (16, (0xF00, 0xF0, 0xF, 0xF000)),
        (16, (0xE0, 0x1C, 0x3, 0)),
    ],
)
@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize("length", [40, 56, 108, 124])
def test_any_bit_fields(bits: int, masks: tuple[int, ...], direction: int, length: int) -> None:
    used = [mask for mask in masks if mask]
    values = [
        [[(17 * (x + 3 * y + n) + n) % (1 << mask.bit_count()) for n, mask in enumerate(used)] for x in range(5)]
        for y in range(3)
    ]
    pixels = [[sum(v * (m & -m) for v, m in zip(pixel, used, strict=True)) for pixel in row] for row in values]
    compression = 6 if length == 40 and masks[3] else 3
    picture = decode(fields(pixels, masks, bits, length, direction=direction, compression=compression), max_pixels=100)
    scale = np.array([255 / ((1 << mask.bit_count()) - 1) for mask in used])
    expected = np.rint(np.array(values) * scale)
    np.testing.assert_array_equal(picture.pixels, expected[..., :3])
    if masks[3]:
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])
    else:
        assert picture.alpha is None


def test_pillow_agrees_on_the_bit_fields_that_it_knows() -> None:
    array = noise(5, 7, 1, np.uint16)[..., 0].tolist()
    for bits, masks in ((16, (0xF800, 0x7E0, 0x1F, 0)), (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000))):
        data = fields(array, masks, bits)
        judged = np.asarray(Image.open(BytesIO(data)))
        np.testing.assert_allclose(decode(data, max_pixels=100).pixels.astype(int), judged[..., :3].astype(int), atol=1)


def test_more_than_8_bits_are_rounded_and_this_is_said() -> None:
    pixels = [[1023 << 20 | 512 << 10 | 1, 0]]
    picture = decode(fields(pixels, (0x3FF00000, 0xFFC00, 0x3FF, 0)), max_pixels=100)
    assert picture.pixels.tolist() == [[[255, 128, 0], [0, 0, 0]]]
    assert picture.warnings == ("depth=8",)


def test_pixels_that_are_missing_are_damage() -> None:
    data = fields([[1, 2], [3, 4]], (0xFF00, 0xFF0000, 0xFF, 0))
    with pytest.raises(BrokenImage):
        decode(data[:-1], max_pixels=100)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (fields([[1, 2]], (0xFF00, 0xFF00, 0xFF, 0)), "bit fields"),
        (fields([[1, 2]], (0xF0F, 0xF0F0, 0xFF0000, 0)), "bit fields"),
        (fields([[1, 2]], (0xFF00, 0xFF, 0, 0)), "lack a color"),
        (fields([[1, 2]], (0xFF0000, 0xFF00, 0xFF, 0), 16), "bit fields"),
        (fields([[1, 2]], (0,) * 4, compression=4), "JPEG compression"),
        (fields([[1, 2]], (0,) * 4, compression=5), "PNG compression"),
        (fields([[1, 2]], (0,) * 4, length=64), "compression"),
        (fields([[1, 2]], (0,) * 4, compression=9), "9"),
        (
            fields([[1, 2]], (0,) * 4, compression=0).replace(struct.pack("<HH", 1, 32), struct.pack("<HH", 1, 64)),
            "64 bits",
        ),
    ],
)
def test_what_is_not_read_is_named(data: bytes, reason: str) -> None:
    for read in (decode, measure):
        with pytest.raises(UnsupportedImage, match=reason):
            read(data, max_pixels=100)


def with_profile(kind: bytes, profile: bytes) -> bytes:
    data = bytearray(fields([[1, 2], [3, 4]], (0xFF0000, 0xFF00, 0xFF, 0)))
    data[70:74] = kind
    struct.pack_into("<II", data, 126, len(data) - 14, len(profile))
    return bytes(data) + profile


def test_the_profile_of_version_5_is_kept() -> None:
    profile = icc_rgb(DISPLAY_P3)
    assert decode(with_profile(b"DEBM", profile), max_pixels=100).metadata.icc == profile
    assert decode(with_profile(b"BGRs", profile), max_pixels=100).metadata.icc is None


@pytest.mark.parametrize(("kind", "profile"), [(b"KNIL", b"c:\\a.icc\0"), (b"DEBM", b""), (b"DEBM", b"no profile")])
def test_a_profile_that_cannot_be_kept_is_said(kind: bytes, profile: bytes) -> None:
    picture = decode(with_profile(kind, profile), max_pixels=100)
    assert (picture.metadata.icc, picture.warnings) == (None, ("icc=dropped",))
