"""HEIC: pixels, depth, transparency, metadata, transformations and bounds, of files that pillow-heif writes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import AnimatedImage, BrokenImage, TooManyPixels, UnsupportedImage
from app.imaging.bmff import Box, read_media_file, write_media_file
from app.imaging.codec import Output, choose_format, decode, encode, measure
from app.imaging.coded_headers import read_hevc_headers
from app.imaging.decoders import heic
from app.imaging.picture import Picture
from tests.app.imaging.heic_writer import write_heic
from tests.app.imaging.mutations import check_changed_bytes
from tests.app.imaging.samples import DISPLAY_P3, XMP, exif, icc_rgb, save_with_pillow, smooth

BRANDS = b"heicmif1miaf"
LOSSLESS = {"quality": -1, "matrix_coefficients": 0}
COLORS, ALPHA = smooth(47, 63, 3), smooth(47, 63, 4)
DEEP = smooth(48, 64, 4, np.uint16)
PROFILE = icc_rgb(DISPLAY_P3)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """One file of each kind, all written at once."""
    rows = np.arange(64, dtype=np.uint8)[:, None, None]
    pq = {"color_primaries": 9, "transfer_characteristics": 16}
    return write_heic(
        {
            "gray": (smooth(47, 63, 1), {"quality": -1}),
            "gray alpha": (ALPHA[..., [0, 3]].copy(), {"quality": -1}),
            "rgb": (COLORS, LOSSLESS),
            "rgb alpha": (ALPHA, LOSSLESS),
            "premultiplied": (ALPHA, {"mode": "RGBa", **LOSSLESS}),
            "10 bit": (DEEP[..., :3].copy(), LOSSLESS),
            "10 bit gray": (DEEP[..., :1].copy(), LOSSLESS),
            "10 bit alpha": (DEEP, LOSSLESS),
            "4:2:0": (COLORS, {"chroma": 420}),
            "metadata": (COLORS, {"exif": b"Exif\0\0" + exif(), "xmp": XMP, "icc_profile": PROFILE}),
            "turned": (COLORS, {"exif": b"Exif\0\0" + exif(6)}),
            "p3": (COLORS, {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 6}),
            "pq": (DEEP[..., :3].copy(), {**pq, "matrix_coefficients": 9}),
            "large": (np.zeros((600, 1000, 1), np.uint8), {"quality": 10}),
            "tile": (np.broadcast_to(rows, (64, 64, 3)).copy(), LOSSLESS),
        }
    )


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def samples(picture: Picture) -> NDArray[Any]:
    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=2)


def coded(data: bytes) -> tuple[list[Box], bytes]:
    """The properties and the data of the primary picture."""
    file = read_media_file(data)
    item = file.items[file.primary]
    return item.properties, file.read(item)


# Pixels


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gray", smooth(47, 63, 1)),
        ("gray alpha", ALPHA[..., [0, 3]]),
        ("rgb", COLORS),
        ("rgb alpha", ALPHA),
    ],
)
def test_8_bit(files: dict[str, bytes], name: str, expected: NDArray[Any]) -> None:
    picture = read(files[name])
    np.testing.assert_array_equal(samples(picture), expected)
    assert (picture.format, picture.warnings) == ("heic", ())


@pytest.mark.parametrize(("name", "channels"), [("10 bit gray", 1), ("10 bit", 3), ("10 bit alpha", 4)])
def test_10_bit_become_16(files: dict[str, bytes], name: str, channels: int) -> None:
    """The writer keeps the upper 10 bits of 16; white stays white."""
    found = samples(read(files[name]))
    assert found.dtype == np.uint16
    expected = np.rint((DEEP[..., :channels] >> 6) * (65535 / 1023)).astype(int)
    np.testing.assert_array_equal(found, expected)


def test_premultiplied_colors(files: dict[str, bytes]) -> None:
    found = samples(read(files["premultiplied"]))
    alpha = ALPHA[..., 3:].astype(float)
    expected = np.minimum(np.divide(ALPHA[..., :3] * 255.0, alpha, out=np.zeros((47, 63, 3)), where=alpha > 0), 255)
    np.testing.assert_array_equal(found[..., 3:], ALPHA[..., 3:])
    np.testing.assert_allclose(found[..., :3], expected, atol=1)


def test_subsampled_colors(files: dict[str, bytes]) -> None:
    assert np.abs(read(files["4:2:0"]).pixels.astype(int) - COLORS).mean() < 2


def test_a_grid(files: dict[str, bytes]) -> None:
    """Phones store large pictures as tiles, cut at the right and at the bottom."""
    properties, data = coded(files["tile"])
    head = struct.pack(">BBBBHH", 0, 0, 1, 1, 100, 90)
    items: dict[int, Any] = {1: (b"grid", [(b"ispe", struct.pack(">III", 0, 100, 90))], head)}
    items |= dict.fromkeys((2, 3, 4, 5), (b"hvc1", properties, data))
    picture = read(write_media_file(BRANDS, 1, items, [(b"dimg", 1, (2, 3, 4, 5))]))
    expected = (np.arange(90) % 64)[:, None, None]
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(expected, (90, 100, 3)))


# Metadata and transformations


def test_metadata_is_kept(files: dict[str, bytes]) -> None:
    metadata = read(files["metadata"]).metadata
    assert metadata.exif == exif()
    assert metadata.icc == PROFILE
    assert metadata.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')


def test_the_orientation_is_applied_once(files: dict[str, bytes]) -> None:
    picture = read(files["turned"])
    assert (picture.height, picture.width) == (63, 47)
    assert np.abs(picture.pixels.astype(int) - np.rot90(COLORS, 3)).mean() < 2
    assert picture.metadata.exif == exif()


def test_colors_named_by_code_points(files: dict[str, bytes]) -> None:
    assert read(files["p3"]).metadata.icc
    assert read(files["p3"]).warnings == ()
    assert read(files["pq"]).warnings == ("color=bt2020-pq->srgb",)


# Output


@pytest.mark.parametrize(
    ("name", "expected"), [("rgb", "jpeg"), ("gray", "jpeg"), ("rgb alpha", "png"), ("10 bit", "png"), ("pq", "png")]
)
def test_the_answer_is_jpeg_or_png(files: dict[str, bytes], name: str, expected: str) -> None:
    picture = read(files[name])
    assert choose_format(picture, "auto", None) == expected
    data, content_type = encode(picture, Output(expected))
    assert content_type == f"image/{expected}"
    assert read(data).pixels.shape == picture.pixels.shape


# Bounds and refusals


def test_the_size_is_bounded_by_the_header(files: dict[str, bytes]) -> None:
    data = files["large"]
    assert measure(data, max_pixels=10**6) == (1000, 600)
    for check in (measure, decode):
        with pytest.raises(TooManyPixels):
            check(data, max_pixels=599_999)


def test_a_lie_about_the_size(files: dict[str, bytes]) -> None:
    """A container that says 16 × 16 of a picture coded as 1000 × 600."""
    properties, data = coded(files["large"])
    small = (b"ispe", struct.pack(">III", 0, 16, 16))
    lie = [small if kind == b"ispe" else (kind, content) for kind, content in properties if kind != b"clap"]
    file = write_media_file(BRANDS, 1, {1: (b"hvc1", lie, data)}, [])
    assert measure(file, max_pixels=10**6) == (1000, 600)
    with pytest.raises(TooManyPixels):
        decode(file, max_pixels=500_000)
    with pytest.raises(BrokenImage):
        read(file)


def test_a_parameter_set_among_the_coded_data(files: dict[str, bytes]) -> None:
    """It would be used in the place of the one in the configuration."""
    small, data = coded(files["tile"])
    large, _ = coded(files["large"])
    config = dict(large)[b"hvcC"]
    at = next(i for i in range(len(config)) if config[i] == 0x42 and config[i + 1] == 1 and config[i - 2] == 0)
    unit = config[at : at + int.from_bytes(config[at - 2 : at], "big")]
    changed = struct.pack(">I", len(unit)) + unit + data
    with pytest.raises(TooManyPixels):
        decode(write_media_file(BRANDS, 1, {1: (b"hvc1", small, changed)}, []), max_pixels=500_000)


def test_the_parameter_set(files: dict[str, bytes]) -> None:
    for name, depth, gray in (("rgb", 8, False), ("gray", 8, True), ("10 bit", 10, False)):
        properties, data = coded(files[name])
        ((header,), pictures) = read_hevc_headers(dict(properties)[b"hvcC"], data)
        assert (header.width, header.height, header.depth, header.gray) == (64, header.height, depth, gray)
        assert pictures == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_a_truncated_file_is_broken(files: dict[str, bytes], share: float) -> None:
    data = files["rgb alpha"]
    with pytest.raises(BrokenImage):
        read(data[: int(len(data) * share)])


def test_changed_bytes_are_answered(files: dict[str, bytes]) -> None:
    check_changed_bytes(files["rgb"], 4)


def test_a_sequence_is_an_animation() -> None:
    data = b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc" + coded_sequence_boxes()
    with pytest.raises(AnimatedImage):
        read(data)


def coded_sequence_boxes() -> bytes:
    """The boxes of a picture, and of a movie."""
    picture = save_with_pillow(smooth(16, 16, 3), "AVIF")
    return picture[32:] + struct.pack(">I4s", 8, b"moov")


def test_a_picture_of_another_coding_is_unsupported(files: dict[str, bytes]) -> None:
    properties, data = coded(files["rgb"])
    with pytest.raises(UnsupportedImage, match="'j2k1'"):
        read(write_media_file(BRANDS, 1, {1: (b"j2k1", properties, data)}, []))


def test_without_the_extra_the_answer_says_how_to_install_it(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heic, "pi_heif", None)
    for check in (measure, decode):
        with pytest.raises(UnsupportedImage, match=r"HEIC support is not installed.*restore\[heif\]"):
            check(files["rgb"], max_pixels=10**6)
