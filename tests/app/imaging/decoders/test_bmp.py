"""Run-length coding of BMP, with 8 and 4 bits per pixel."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest

from app.errors import BrokenImage
from app.imaging.codec import decode

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
