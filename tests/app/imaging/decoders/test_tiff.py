"""What a TIFF may cost: values, directories, strips and tiles are bounded before a library reads the file."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from app.errors import BrokenImage, ServiceError
from app.imaging.codec import decode, measure
from app.imaging.decoders import tiff_entries, tiff_layout
from app.imaging.decoders.tiff_directory import read_pages
from app.imaging.decoders.tiff_layout import check_layout
from app.imaging.decoders.tiff_pixels import keep_pixels
from tests.app.imaging.decoders.tiffs import (
    BITS,
    COMPRESSION,
    LONG,
    LONG8,
    ORIENTATION,
    ROWS_PER_STRIP,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    UNDEFINED,
    WIDTH,
    Claim,
    gray,
    tiff,
    tiled,
)
from tests.app.imaging.samples import noise

PIXELS = bytes(range(256))
"""Those of a gray picture of 16×16."""


def read(data: bytes) -> np.ndarray:
    return decode(data, max_pixels=10**6).pixels[..., 0]


def peak(function: Callable[[], object]) -> int:
    """Return the most bytes that Python allocated in `function`, whether it succeeds or is refused."""
    tracemalloc.start()
    try:
        function()
    except ServiceError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tag", [WIDTH, BITS, COMPRESSION, SAMPLES, ORIENTATION, ROWS_PER_STRIP, STRIP_OFFSETS])
def test_many_values_of_a_tag_are_not_unpacked(tag: int, big: bool) -> None:
    size = 4_000_000
    data = gray(16, 16, PIXELS + bytes(size), {tag: Claim(LONG8 if big else LONG, size // 8, 16)}, big=big)
    for function in (measure, decode):
        assert peak(lambda function=function: function(data, max_pixels=10**6)) < 3 * size


def test_many_directories_with_many_entries_are_refused() -> None:
    tags = {0x9000 + i: 1 for i in range(1000)}
    one = tiff(tags | {0x00FE: 1})[16:]  # a thumbnail
    directories = b"".join(one[:-4] + (16 + len(one) * (i + 1)).to_bytes(4, "little") for i in range(6))
    with pytest.raises(BrokenImage):
        read(tiff(tags, directories + bytes(2), link=16))


def test_tags_that_share_their_bytes_do_not_reach_a_library() -> None:
    size = 1_000_000
    shared = {0x9000 + i: Claim(UNDEFINED, size, 16) for i in range(1000)}
    data = gray(16, 16, PIXELS + bytes(size), shared)
    assert peak(lambda: read(data)) < 8 * size
    np.testing.assert_array_equal(read(data).tobytes(), PIXELS)


def test_values_of_a_directory_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_entries, "MAX_VALUE_BYTES", 1000)
    data = tiff({0x9000 + i: bytes(300) for i in range(4)})
    (at,) = {int.from_bytes(data[4:8], "little")}
    assert len(tiff_entries.read_entries(data, "<", False, at, {0x9000, 0x9001, 0x9002})) == 3
    with pytest.raises(ValueError, match="too large"):
        tiff_entries.read_entries(data, "<", False, at)


def test_exif_of_a_tiff_is_bounded() -> None:
    size = 500_000
    inner = tiff({0xA500 + i: Claim(UNDEFINED, size, 16) for i in range(1000)}, bytes(size))
    at = int.from_bytes(inner[4:8], "little")
    data = gray(16, 16, inner[16:], {0x8769: at, STRIP_BYTES: 256})
    assert peak(lambda: read(data)) < 100 * size
    assert decode(data, max_pixels=10**6).warnings == ("exif=dropped",)


@pytest.mark.parametrize("side", [64, 256, 512, 2048])
def test_a_tile_may_be_larger_than_a_small_picture(side: int) -> None:
    tile = np.zeros((side, side), np.uint8)
    tile[:16, :16] = np.frombuffer(PIXELS, np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read(tiled(16, 16, (side, side), zlib.compress(tile.tobytes()))), tile[:16, :16])


@pytest.mark.parametrize("tile", [(26_000, 26_000), (16, 2**20), (2**31, 2**31), (0, 16)])
def test_a_tile_far_larger_than_the_picture_is_refused(tile: tuple[int, int]) -> None:
    width, height = tile
    data = tiled(16, 16, (max(width, 1), height), zlib.compress(bytes(1000)))
    if not width:
        data = data.replace(
            (0x0142).to_bytes(2, "little") + b"\4\0\1\0\0\0\1", (0x0142).to_bytes(2, "little") + b"\4\0\1\0\0\0\0"
        )
    with pytest.raises(BrokenImage):
        read(data)


def test_tiles_that_together_are_far_larger_than_the_picture_are_refused() -> None:
    data = tiled(65_500, 1, (16, 65_536), zlib.compress(bytes(1000)))
    with pytest.raises(ValueError, match="tiles"):
        check_layout(data, read_pages(data)[0])
    data = tiled(65_500, 1, (256, 256), zlib.compress(bytes(65_536)))
    assert read(data).shape == (1, 65_500)


@pytest.mark.parametrize("big", [False, True])
def test_strips_of_one_row_are_joined(big: bool) -> None:
    height = 100_000
    rows = {ROWS_PER_STRIP: 1, STRIP_OFFSETS: [16 + i % 16 * 16 for i in range(height)], STRIP_BYTES: [16] * height}
    data = gray(16, height, PIXELS, rows, big=big)
    with Image.open(io.BytesIO(keep_pixels(data, read_pages(data)[0]))) as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        assert len(image.tile) == 1
    pixels = decode(data, max_pixels=10**7).pixels[..., 0]
    np.testing.assert_array_equal(pixels, np.tile(np.frombuffer(PIXELS, np.uint8).reshape(16, 16), (height // 16, 1)))


def test_missing_and_short_strips_are_damage() -> None:
    good = {ROWS_PER_STRIP: 4, STRIP_OFFSETS: [16, 80, 144, 208], STRIP_BYTES: [64] * 4}
    assert read(gray(16, 16, PIXELS, good)).tobytes() == PIXELS
    for offsets in ([16, 80, 144], [16, 80, 144, 2**31], []):
        with pytest.raises(BrokenImage):
            read(gray(16, 16, PIXELS, good | {STRIP_OFFSETS: offsets}))


def test_more_strips_than_the_picture_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_layout, "MAX_SPARE_PARTS", 10)
    for count, fine in ((1, True), (11, True), (12, False)):
        packed = zlib.compress(PIXELS)
        lists = {STRIP_OFFSETS: [16] * count, STRIP_BYTES: [len(packed)] * count}
        data = gray(16, 16, packed, lists, compression=8)
        if fine:
            assert read(data).tobytes() == PIXELS
        else:
            with pytest.raises(BrokenImage):
                read(data)


def test_strips_that_all_claim_the_same_bytes_are_refused() -> None:
    packed = zlib.compress(noise(1, 100_000, 1).tobytes())
    height = 5000
    lists = {ROWS_PER_STRIP: 1, STRIP_OFFSETS: [16] * height, STRIP_BYTES: [len(packed)] * height}
    data = gray(16, height, packed, lists, compression=8)
    with pytest.raises(ValueError, match="overlap"):
        check_layout(data, read_pages(data)[0])


def test_a_wrong_length_of_the_only_strip_is_harmless() -> None:
    data = gray(16, 16, PIXELS, {STRIP_BYTES: 2**32 - 1})
    assert read(data).tobytes() == PIXELS


def test_scans_of_a_jpeg_in_a_tiff_are_bounded() -> None:
    data = gray(30_000, 2000, b"\xff\xda\0\2" * 1000, compression=7)
    with pytest.raises(ValueError, match="scans"):
        check_layout(data, read_pages(data)[0])
