"""TIFFs of any arrangement of samples in lossless compressions; tifffile wrote them, and Pillow those it cannot."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from app.errors import BrokenImage, UnsupportedImage
from app.imaging.codec import decode
from app.imaging.decoders.tiff_entries import make_directory, make_header
from app.imaging.picture import Picture
from tests.app.imaging.samples import noise, save_with_pillow, smooth

COLORS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
ARRANGEMENTS = [
    ("minisblack", "straight"),
    ("minisblack", "premultiplied"),
    ("minisblack", "other"),
    ("minisblack", "other straight"),
    ("miniswhite", "straight"),
    ("rgb", ""),
    ("rgb", "straight"),
    ("rgb", "premultiplied"),
    ("rgb", "other"),
    ("rgb", "straight other"),
    ("rgb", "other other straight"),
]
WORDS = {"straight": "unassalpha", "premultiplied": "assocalpha", "other": "unspecified"}


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def write(array: NDArray[Any], photometric: str, extra: list[str], **options: Any) -> bytes:
    out = BytesIO()
    if options.get("planarconfig") == "separate":
        array = array.transpose(2, 0, 1)
    tifffile.imwrite(out, array, photometric=photometric, extrasamples=[WORDS[word] for word in extra], **options)
    np.testing.assert_array_equal(tifffile.imread(BytesIO(out.getvalue())), array)
    return out.getvalue()


@pytest.mark.parametrize(("photometric", "extra"), ARRANGEMENTS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 7},
        {"compression": "deflate", "predictor": True, "rowsperstrip": 7},
        {"compression": "deflate", "predictor": True, "tile": (16, 32), "byteorder": ">"},
        {"bigtiff": True, "byteorder": ">", "tile": (32, 16)},
    ],
)
def test_any_arrangement(photometric: str, extra: str, planar: str, dtype: type, options: dict[str, Any]) -> None:
    colors, words = COLORS[photometric], extra.split()
    array = noise(40, 33, colors + len(words), dtype)
    white = np.iinfo(dtype).max
    kind = next((word for word in words if word != "other"), "")
    at = colors + words.index(kind) if kind else -1
    if kind == "premultiplied":
        array[..., at] |= 1 << (dtype().itemsize * 8 - 1)
        array[..., :colors] = np.minimum(array[..., :colors], array[..., at, None])
    picture = read(write(array, photometric, words, planarconfig=planar, **options))
    expected = array[..., :colors].astype(float)
    if photometric == "miniswhite":
        expected = white - expected
    if kind == "premultiplied":
        expected = expected * white / array[..., at, None]
    np.testing.assert_allclose(picture.pixels, expected, atol=1 if kind == "premultiplied" else 0)
    if kind:
        np.testing.assert_array_equal(picture.alpha, array[..., at])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_cmyk_with_alpha(planar: str, dtype: type, compression: str | None) -> None:
    inks = np.asarray(Image.fromarray(smooth(40, 33, 3)).convert("CMYK"))
    opacity = noise(40, 33, 1)
    array = np.concatenate([inks, opacity], axis=2).astype(dtype) * (1 if dtype == np.uint8 else 257)
    picture = read(write(array, "separated", ["straight"], planarconfig=planar, compression=compression))
    np.testing.assert_allclose(picture.pixels.astype(int), smooth(40, 33, 3).astype(int), atol=1)
    np.testing.assert_array_equal(picture.alpha, opacity[..., 0])
    assert picture.warnings == (("color=srgb",) if dtype == np.uint8 else ("color=srgb", "depth=8"))


def with_compression(array: NDArray[Any], compression: str) -> bytes:
    """A TIFF of samples, (height, width, channels), in a compression that only Pillow writes, and only for gray."""
    height, width, channels = array.shape
    row = np.ascontiguousarray(array).view(np.uint8).reshape(height, -1, 1)
    data = save_with_pillow(row, "TIFF", compression=compression)
    written = Image.open(BytesIO(data)).tag_v2
    numbers = {
        **{tag: written[tag] for tag in (0x0101, 0x0103, 0x0111, 0x0116, 0x0117)},
        **{0x0100: width, 0x0102: array.itemsize * 8, 0x0106: 2 if channels > 2 else 1, 0x0115: channels},
    }
    lists = {tag: value if isinstance(value, tuple) else (value,) for tag, value in numbers.items()}
    entries = [(tag, 4, len(value), struct.pack(f"<{len(value)}I", *value)) for tag, value in lists.items()]
    return make_header("<", False, len(data)) + data[8:] + make_directory(entries, "<", False, len(data))


@pytest.mark.parametrize("compression", ["zstd", "lzma", "tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_lossless_compression(compression: str, channels: int, dtype: type) -> None:
    array = noise(30, 20, channels, dtype)
    np.testing.assert_array_equal(read(with_compression(array, compression)).pixels, array)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (50001, "WebP"),
        (34887, "LERC"),
        (34712, "JPEG 2000"),
        (33005, "JPEG 2000"),
        (50002, "JPEG XL"),
        (60000, "60000"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_other_compressions_are_named(number: int, name: str, dtype: type) -> None:
    data = bytearray(write(noise(8, 8, 3, dtype), "rgb", []))
    struct.pack_into("<H", data, data.index(struct.pack("<HHI", 0x0103, 3, 1)) + 8, number)
    with pytest.raises(UnsupportedImage, match=name):
        read(bytes(data))


def test_more_samples_than_anything_has_are_not_read() -> None:
    with pytest.raises(UnsupportedImage, match="40 samples"):
        read(write(noise(8, 8, 40), "minisblack", ["other"] * 39, planarconfig="contig"))


@pytest.mark.parametrize("photometric", [4, 9, 32803, 34892])
def test_other_kinds_of_colors_are_named(photometric: int) -> None:
    data = bytearray(write(noise(8, 8, 1)[..., 0], "minisblack", []))
    struct.pack_into("<H", data, data.index(struct.pack("<HHI", 0x0106, 3, 1)) + 8, photometric)
    with pytest.raises(UnsupportedImage, match=str(photometric)):
        read(bytes(data))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(("photometric", "channels", "extra"), [("minisblack", 2, ["straight"]), ("rgb", 3, [])])
def test_missing_samples_are_damage(
    photometric: str,
    channels: int,
    extra: list[str],
    planar: str,
    compression: str | None,
    tile: tuple[int, int] | None,
) -> None:
    options = {"planarconfig": planar, "compression": compression, "tile": tile}
    data = write(noise(40, 33, channels), photometric, extra, **options)
    page = tifffile.TiffFile(BytesIO(data)).pages.first
    last = page.dataoffsets[-1] + page.databytecounts[-1]
    with pytest.raises(BrokenImage):
        read(data[: last - 300])
