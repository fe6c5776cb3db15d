"""GIF of one frame: colors, transparency, odd screens, and bounds."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.errors import AnimatedImage, BrokenImage, TooManyPixels
from app.imaging.codec import choose_format, decode, measure
from app.imaging.picture import Picture
from tests.app.imaging.mutations import check_changed_bytes
from tests.app.imaging.samples import XMP, noise, save_with_pillow, smooth

COLORS = np.array([[200, 30, 40], [10, 120, 60], [0, 0, 90], [250, 240, 230]], np.uint8)
INDICES = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
END = b"\0;"


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def gif(indices: NDArray[Any] = INDICES, **options: Any) -> bytes:
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel())
    image.putpalette(COLORS.ravel().tolist())
    return save_with_pillow(image, "GIF", **options)


def move(data: bytes, screen: tuple[int, int], place: tuple[int, int]) -> bytes:
    """The same file with another screen (width, height) and its frame at (left, top)."""
    at = data.index(b"\x2c", 13 + 3 * (2 << (data[10] & 7)))
    moved = data[:at] + struct.pack("<BHH", 0x2C, *place) + data[at + 5 :]
    return moved[:6] + struct.pack("<HH", *screen) + moved[10:]


@pytest.mark.parametrize("interlace", [0, 1])
def test_colors(interlace: int) -> None:
    picture = read(gif(interlace=interlace))
    np.testing.assert_array_equal(picture.pixels, COLORS[INDICES])
    assert (picture.alpha, picture.format, picture.warnings) == (None, "gif", ())
    assert choose_format(picture, "auto", None) == "png"


def test_transparency() -> None:
    picture = read(gif(transparency=2))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, np.where(INDICES == 2, 0, 255))
    np.testing.assert_array_equal(picture.pixels[INDICES != 2], COLORS[INDICES[INDICES != 2]])


@pytest.mark.parametrize("transparency", [None, 7])
def test_gray(transparency: int | None) -> None:
    array = np.arange(256, dtype=np.uint8).reshape(8, 32, 1)
    options = {} if transparency is None else {"transparency": transparency}
    picture = read(save_with_pillow(array, "GIF", **options))
    np.testing.assert_array_equal(picture.pixels[..., :1], array)
    if transparency is None:
        assert picture.alpha is None
    else:
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha == 0, array[..., 0] == transparency)


def test_what_a_frame_leaves_free_is_transparent() -> None:
    picture = read(move(gif(), (40, 50), (7, 5)))
    assert picture.alpha is not None
    expected = np.zeros((50, 40), np.uint8)
    expected[5:25, 7:37] = 255
    np.testing.assert_array_equal(picture.alpha, expected)
    np.testing.assert_array_equal(picture.pixels[5:25, 7:37], COLORS[INDICES])


@pytest.mark.parametrize("screen", [(1, 1), (0, 0), (29, 20)])
def test_a_frame_larger_than_the_screen_is_shown_whole(screen: tuple[int, int]) -> None:
    data = move(gif(), screen, (0, 0))
    assert measure(data, max_pixels=10**6) == (30, 20)
    np.testing.assert_array_equal(read(data).pixels, COLORS[INDICES])


def test_comments_loops_and_xmp() -> None:
    data = gif()
    at = data.index(b"\x2c", 25)
    packet = XMP.replace(b'Orientation="6"', b'Orientation="1"')
    trailer = b"\1" + bytes(range(255, -1, -1))
    xmp = b"\x21\xff\x0bXMP DataXMP" + packet + trailer + b"\0"
    loop = b"\x21\xff\x0bNETSCAPE2.0\3\1\0\0\0"
    changed = data[:at] + xmp + loop + b"\x21\xfe\5hello\0" + data[at:]
    picture = read(changed)
    np.testing.assert_array_equal(picture.pixels, COLORS[INDICES])
    assert picture.metadata.xmp == packet


def test_an_animation_is_refused() -> None:
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(1)] + [Image.fromarray(smooth(8, 8, 3))]
    data = save_with_pillow(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for check in (measure, decode):
        with pytest.raises(AnimatedImage, match="frames"):
            check(data, max_pixels=10**6)


@pytest.mark.parametrize(
    "data",
    [move(gif(), (2000, 2000), (0, 0)), move(gif(), (30, 20), (60_000, 60_000))],
    ids=["screen", "place"],
)
def test_the_size_is_bounded_by_the_header(data: bytes) -> None:
    for check in (measure, decode):
        with pytest.raises(TooManyPixels):
            check(data, max_pixels=10**6)


def test_a_frame_that_announces_more_than_it_has_is_broken() -> None:
    data = bytearray(gif())
    at = data.index(b"\x2c", 25)
    data[at + 5 : at + 9] = struct.pack("<HH", 900, 900)
    with pytest.raises(BrokenImage):
        read(bytes(data))


def test_data_beyond_the_frame_costs_nothing() -> None:
    """A frame of one pixel with megabytes of codes."""
    data = gif(INDICES[:1, :1])
    bomb = data[: -len(END)] + (b"\xff" + bytes(255)) * 30_000 + END
    assert read(bomb).pixels.shape == (1, 1, 3)


@pytest.mark.parametrize("part", [b"\1\0", b"\x21\xfe\0", b"\x21\xff\1\0\0"])
def test_endless_blocks_are_refused(part: bytes) -> None:
    data = gif()
    at = data.index(b"\x2c", 25)
    endless = b"\x21\xfe" + part * 2_000_000 if part == b"\1\0" else part * 2_000_000
    with pytest.raises(BrokenImage):
        read(data[:at] + endless + data[at:])


@pytest.mark.parametrize("end", [1, 2])
def test_a_missing_end_is_forgiven(end: int) -> None:
    np.testing.assert_array_equal(read(gif()[:-end]).pixels, COLORS[INDICES])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_broken(share: float) -> None:
    data = gif()
    with pytest.raises(BrokenImage):
        read(data[: int(len(data) * share)])


def test_changed_bytes_are_answered() -> None:
    check_changed_bytes(gif(transparency=1), 3)
