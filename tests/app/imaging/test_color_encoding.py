"""Colors that a file names by code points: kept by a profile, or converted to sRGB and said."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.imaging.bmff import read_media_file, write_media_file
from app.imaging.codec import Output, decode, encode
from app.imaging.color_encoding import from_code_points, from_gamma, normalize_encoding
from app.imaging.picture import Picture
from tests.app.imaging.samples import DISPLAY_P3, icc_rgb, png, save_with_pillow, smooth

BT709, UNSPECIFIED, BT2020, P3 = 1, 2, 9, 12
GAMMA_22, LINEAR, SRGB, PQ, HLG = 4, 8, 13, 16, 18


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def avif(pixels: NDArray[Any], primaries: int, transfer: int) -> bytes:
    """An AVIF whose `nclx` property has these code points."""
    file = read_media_file(save_with_pillow(pixels, "AVIF", quality=95, subsampling="4:4:4"))
    item = file.items[1]
    color = struct.pack(">4s3HB", b"nclx", primaries, transfer, 6, 0x80)
    properties = [(kind, color if kind == b"colr" else content) for kind, content in item.properties]
    return write_media_file(b"avifmif1miaf", 1, {1: (b"av01", properties, file.read(item))}, [])


def convert(value: float, primaries: int, transfer: int) -> int:
    """A gray of this encoding, from 0 to 1, as sRGB in 16 bit."""
    encoding = from_code_points(primaries, transfer)
    assert encoding
    pixels, _, _ = normalize_encoding(np.full((1, 1, 3), round(value * 65535), np.uint16), encoding)
    assert np.ptp(pixels.astype(int)) <= 40  # stays gray, but for the rounding of matrices
    return int(pixels[0, 0, 1])


def encode_pq(light: float) -> float:
    """The PQ value of cd/m², by the numbers of SMPTE ST 2084."""
    power = (light / 10000) ** (2610 / 16384)
    return float(((3424 + 2413 * 32 * power) / (4096 + 2392 * 32 * power)) ** (2523 / 32))


def to_srgb(pixels: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """Pixels through a profile as another color engine sees them."""
    source = ImageCms.ImageCmsProfile(BytesIO(icc))
    shown = ImageCms.profileToProfile(Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"))
    return np.asarray(shown).astype(int)


# In files


def test_a_wide_gamut_is_kept_by_a_profile() -> None:
    pixels = smooth(24, 32, 3)
    plain, wide = read(avif(pixels, BT709, SRGB)), read(avif(pixels, P3, SRGB))
    np.testing.assert_array_equal(wide.pixels, plain.pixels)
    assert plain.metadata.icc is None
    assert wide.metadata.icc
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(wide.metadata.icc))).strip() == "Display P3"
    assert wide.warnings == plain.warnings == ()
    for name in ("png", "jpeg", "tiff", "avif", "webp"):
        assert read(encode(wide, Output(name))[0]).metadata.icc == wide.metadata.icc


@pytest.mark.parametrize(
    ("primaries", "transfer", "said"),
    [
        (BT709, LINEAR, "color=bt709-linear->srgb"),
        (P3, LINEAR, "color=p3-linear->srgb"),
        (BT2020, PQ, "color=bt2020-pq->srgb"),
        (BT2020, HLG, "color=bt2020-hlg->srgb"),
        (UNSPECIFIED, HLG, "color=bt2020-hlg->srgb"),
        (BT709, 10, "color=ignored"),
        (10, SRGB, "color=ignored"),
    ],
)
def test_what_is_converted_is_said(primaries: int, transfer: int, said: str) -> None:
    picture = read(avif(smooth(24, 32, 3), primaries, transfer))
    assert picture.warnings == (said,)
    assert picture.metadata.icc is None


@pytest.mark.parametrize("code_points", [(BT709, SRGB), (BT709, 1), (UNSPECIFIED, UNSPECIFIED), (BT709, 6)])
def test_srgb_and_television_are_srgb(code_points: tuple[int, int]) -> None:
    picture = read(avif(smooth(24, 32, 3), *code_points))
    assert (picture.metadata.icc, picture.warnings) == (None, ())


def test_the_coded_picture_names_its_colors_where_the_container_does_not() -> None:
    file = read_media_file(save_with_pillow(smooth(24, 32, 3), "AVIF"))
    item = file.items[1]
    properties = [entry for entry in item.properties if entry[0] != b"colr"]
    data = write_media_file(b"avifmif1miaf", 1, {1: (b"av01", properties, file.read(item))}, [])
    assert (read(data).metadata.icc, read(data).warnings) == (None, ())


# Profiles, judged by Little CMS


@pytest.mark.parametrize("transfer", [SRGB, GAMMA_22])
@pytest.mark.parametrize("primaries", [BT709, P3, BT2020])
def test_profiles_mean_what_the_code_points_mean(primaries: int, transfer: int) -> None:
    """The same colors by a profile, and by linear light through the matrix to sRGB."""
    encoding, linear = from_code_points(primaries, transfer), from_code_points(primaries, LINEAR)
    assert encoding
    assert linear
    pixels = smooth(24, 32, 3) // 2 + 64  # within sRGB
    values = pixels / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if transfer == GAMMA_22:
        light = values**2.2
    expected, _, _ = normalize_encoding(np.rint(light * 65535).astype(np.uint16), linear)
    _, icc, warnings = normalize_encoding(pixels, encoding)
    shown = to_srgb(pixels, icc) if icc else pixels.astype(int)
    np.testing.assert_allclose(shown, expected / 257, atol=1.5)
    assert warnings == ()


def test_a_gray_picture_gets_a_gray_profile() -> None:
    encoding = from_code_points(P3, GAMMA_22)
    assert encoding
    _, icc, _ = normalize_encoding(smooth(4, 4, 1), encoding)
    assert icc
    assert ImageCms.ImageCmsProfile(BytesIO(icc)).profile.xcolor_space.strip() == "GRAY"


# High dynamic range


def test_dark_and_middle_tones_keep_their_light() -> None:
    """White is 203 cd/m²: 10 are 0.2459 in sRGB, 50 are 0.5334."""
    assert convert(encode_pq(10), BT2020, PQ) / 65535 == pytest.approx(0.2459, abs=0.001)
    assert convert(encode_pq(50), BT2020, PQ) / 65535 == pytest.approx(0.5334, abs=0.001)
    assert convert(0.0, BT2020, PQ) == convert(0.0, BT2020, HLG) == 0


def test_pq_and_hlg_have_the_same_white() -> None:
    """ITU-R BT.2408: ordinary white is 58 % in PQ and 75 % in HLG."""
    white = convert(0.5807, BT2020, PQ)
    assert convert(0.75, BT2020, HLG) == pytest.approx(white, abs=100)
    assert 0.85 < white / 65535 < 0.95


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_highlights_roll_off_without_steps(transfer: int) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    encoding = from_code_points(BT2020, transfer)
    assert encoding
    shown = normalize_encoding(ramp, encoding)[0].ravel().astype(int)
    assert np.diff(shown).min() >= -1
    assert np.diff(shown).max() < 20 * 257
    assert shown[-1] == 65535


def test_hues_stay_when_highlights_roll_off() -> None:
    """An orange of 700, 350 and 70 cd/m² keeps the ratios of its colors."""
    encoding = from_code_points(BT709, PQ)
    assert encoding
    values = np.array([[[encode_pq(light) for light in (700, 350, 70)]]]) * 65535
    shown = normalize_encoding(np.rint(values).astype(np.uint16), encoding)[0][0, 0] / 65535
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    assert light[1] / light[0] == pytest.approx(0.5, abs=0.01)
    assert light[2] / light[0] == pytest.approx(0.1, abs=0.005)


# Gamma and chromaticities


def test_a_gamma_near_srgb_is_srgb() -> None:
    srgb = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.329))
    rounded = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.313, 0.329))
    assert from_gamma(1 / 0.45455, srgb).is_srgb
    assert from_gamma(2.2, rounded).is_srgb
    assert not from_gamma(1.8, srgb).is_srgb
    assert from_gamma(1.0, srgb).transfer == "linear"


def chunks(**named: bytes) -> list[tuple[bytes, bytes]]:
    return [(kind.encode(), content) for kind, content in named.items()]


def gamma(value: float) -> bytes:
    return struct.pack(">I", round(value * 100_000))


WIDE = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (chunks(gAMA=gamma(1)), "color=bt709-linear->srgb"),
        (chunks(gAMA=gamma(1), cHRM=WIDE), "color=custom-linear->srgb"),
        (chunks(cICP=b"\x09\x10\0\1"), "color=bt2020-pq->srgb"),
        (chunks(cICP=b"\x09\x10\0\1", iCCP=b"icc\0\0" + zlib.compress(icc_rgb(DISPLAY_P3))), "color=bt2020-pq->srgb"),
        (chunks(cICP=b"\1\x0d\0\0"), "color=ignored"),
        (chunks(cICP=b"\1\x0d\1\1"), "color=ignored"),
        (chunks(cICP=b"\1"), "color=ignored"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_that_is_converted(named: list[tuple[bytes, bytes]], said: str, dtype: type) -> None:
    picture = read(png(smooth(4, 5, 3, dtype), 2, 8 * np.dtype(dtype).itemsize, *named))
    assert picture.warnings == (said,)
    assert picture.pixels.dtype == dtype


@pytest.mark.parametrize(
    ("named", "has_profile"),
    [
        (chunks(cICP=b"\x0c\x0d\0\1"), True),
        (chunks(gAMA=gamma(1 / 1.8)), True),
        (chunks(gAMA=gamma(1 / 2.2), cHRM=WIDE), True),
        (chunks(gAMA=gamma(1 / 2.2)), False),
        (chunks(gAMA=gamma(0)), False),
        (chunks(gAMA=gamma(1 / 2.2), cHRM=bytes(32)), False),
        (chunks(gAMA=gamma(1 / 2.2), cHRM=b"\xff" * 32), False),
        (chunks(cHRM=WIDE), False),
        (chunks(gAMA=gamma(1), sRGB=b"\0"), False),
        (chunks(cICP=b"\1\x0d\0\1", gAMA=gamma(1)), False),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_png_whose_values_stay(named: list[tuple[bytes, bytes]], has_profile: bool, channels: int) -> None:
    pixels = smooth(4, 5, channels)
    picture = read(png(pixels, 2 if channels == 3 else 0, 8, *named))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert bool(picture.metadata.icc) == has_profile
    assert picture.warnings == ()


def test_a_profile_in_png_is_not_overruled_by_gamma() -> None:
    profile = icc_rgb(DISPLAY_P3)
    named = chunks(gAMA=gamma(1), iCCP=b"icc\0\0" + zlib.compress(profile))
    assert read(png(smooth(4, 5, 3), 2, 8, *named)).metadata.icc == profile
