"""Print resolution survives from every format to every format, in the units of each."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from app.imaging import resolution
from app.imaging.codec import Output, decode, encode, list_losses
from app.imaging.picture import Metadata, Picture
from tests.app.imaging.samples import exif, noise, png, save_with_pillow, smooth

FORMATS = ("png", "jpeg", "webp", "tiff", "avif")
PREFIX = b"Exif\0\0"
PER_METER = 11811  # 300 dots per inch, rounded as PNG and BMP must


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=10**6)


def exif_with(x: tuple[int, int], y: tuple[int, int], unit: int | None = 2, orientation: int = 1) -> bytes:
    """An EXIF block of an orientation and a resolution in two fractions."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x011A], block[0x011B] = IFDRational(*x), IFDRational(*y)
    if unit is not None:
        block[0x0128] = unit
    return block.tobytes().removeprefix(PREFIX)


def picture(density: tuple[float, float] | None, block: bytes | None = None) -> Picture:
    return Picture(smooth(16, 24, 3), metadata=Metadata(exif=block, resolution=density))


def seen_by_pillow(data: bytes) -> tuple[float, float]:
    """The resolution as an independent reader has it; from EXIF where the format has no field."""
    image = Image.open(BytesIO(data))
    block = image.getexif()
    if "dpi" in image.info:
        x, y = image.info["dpi"]
    else:
        x, y = (block[tag] * {2: 1, 3: 2.54}[block[0x0128]] for tag in (0x011A, 0x011B))
    return round(float(x), 2), round(float(y), 2)


SOURCES = {
    "jfif": save_with_pillow(smooth(16, 24, 3), "JPEG", dpi=(300, 300)),
    "phys": png(smooth(16, 24, 3), 2, 8, (b"pHYs", struct.pack(">IIB", PER_METER, PER_METER, 1))),
    "bmp": save_with_pillow(smooth(16, 24, 3), "BMP", dpi=(300, 300)),
    "tiff": save_with_pillow(smooth(16, 24, 3), "TIFF", dpi=(300, 300)),
    "tiff_16_bit": encode(
        Picture(noise(16, 24, 3, np.uint16), metadata=Metadata(resolution=(300, 300))), Output("tiff")
    )[0],
    "webp_exif": save_with_pillow(smooth(16, 24, 3), "WEBP", exif=exif_with((300, 1), (300, 1))),
    "avif_exif": save_with_pillow(smooth(16, 24, 3), "AVIF", exif=exif_with((300, 1), (300, 1))),
    "exif_per_cm": save_with_pillow(
        smooth(16, 24, 3), "JPEG", exif=PREFIX + exif_with((15000, 127), (15000, 127), unit=3)
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", SOURCES)
def test_300_dpi_stay_300_dpi(source: str, name: str) -> None:
    decoded = read(SOURCES[source])
    assert decoded.metadata.resolution == pytest.approx((300, 300), abs=0.01)
    encoded, _ = encode(decoded, Output(name))
    assert seen_by_pillow(encoded) == (300, 300)
    assert read(encoded).metadata.resolution == pytest.approx((300, 300), abs=0.01)
    assert list_losses(decoded, Output(name)) in ((), ("depth=8",))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("metadata", ["color", "strip"])
def test_it_is_metadata(name: str, metadata: Any) -> None:
    encoded, _ = encode(read(SOURCES["jfif"]), Output(name, metadata=metadata))
    assert read(encoded).metadata.resolution is None
    assert list_losses(read(SOURCES["jfif"]), Output(name, metadata=metadata)) == ()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_one_gets_none(name: str) -> None:
    encoded, _ = encode(picture(None), Output(name))
    assert read(encoded).metadata == Metadata()


def test_dots_per_centimeter_stay_whole() -> None:
    data = bytearray(SOURCES["jfif"])
    data[13:18] = struct.pack(">BHH", 2, 118, 59)
    decoded = read(bytes(data))
    assert decoded.metadata.resolution == pytest.approx((299.72, 149.86))
    assert encode(decoded, Output("jpeg"))[0][13:18] == bytes(data[13:18])


@pytest.mark.parametrize("name", FORMATS)
def test_both_directions_turn_with_the_picture(name: str) -> None:
    turned = save_with_pillow(smooth(16, 24, 3), "JPEG", dpi=(200, 100), exif=PREFIX + exif(orientation=6))
    decoded = read(turned)
    assert decoded.metadata.resolution == (100, 200)
    assert seen_by_pillow(encode(decoded, Output(name))[0]) == (100, 200)


def test_a_turned_tiff() -> None:
    turned = save_with_pillow(smooth(16, 24, 3), "TIFF", dpi=(200, 100), tiffinfo={0x0112: 6})
    assert read(turned).metadata.resolution == (100, 200)


def test_the_format_s_own_field_comes_before_exif() -> None:
    data = save_with_pillow(smooth(16, 24, 3), "JPEG", dpi=(300, 300), exif=PREFIX + exif_with((72, 1), (72, 1)))
    assert read(data).metadata.resolution == (300, 300)
    assert seen_by_pillow(encode(read(data), Output("webp"))[0]) == (300, 300)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["webp", "avif"])
def test_exif_keeps_everything_else(name: str, order: str) -> None:
    block = exif(order=order, thumbnail=b"thumbnail")
    encoded, _ = encode(picture((300, 240.5), block), Output(name))
    tags = Image.open(BytesIO(encoded)).getexif()
    assert tags[0x010F].startswith("Maker of cameras")
    assert (tags[0x011A], tags[0x011B], tags[0x0128]) == (300, 240.5, 2)
    assert dict(tags.get_ifd(0x8769)) == {0xA002: 24, 0xA003: 16}


def test_jfif_holds_up_to_65535() -> None:
    assert list_losses(picture((70000, 70000)), Output("jpeg")) == ("resolution=dropped",)
    assert list_losses(picture((70000, 70000)), Output("png")) == ()
    encoded, _ = encode(picture((70000, 70000)), Output("jpeg"))
    assert read(encoded).metadata.resolution is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(9),
        struct.pack(">IIB", 1, 2, 0),  # only the shape of a pixel
        struct.pack(">IIB", 0, PER_METER, 1),
        struct.pack(">IIB", 2**32 - 1, 1, 1),
        struct.pack(">IIBB", PER_METER, PER_METER, 1, 0),
    ],
)
def test_a_phys_chunk_without_a_resolution(content: bytes) -> None:
    assert resolution.read_phys(content) is None


@pytest.mark.parametrize(
    "body", [None, b"", b"\1\1", b"\1\1\0\0\1\0\1\0\0", b"\1\1\3\1\x2c\1\x2c\0\0", b"\1\1\1\0\0\1\x2c\0\0"]
)
def test_a_jfif_segment_without_a_resolution(body: bytes | None) -> None:
    assert resolution.read_jfif(body) is None


@pytest.mark.parametrize(
    "block",
    [
        None,
        b"",
        b"II*\0",
        b"II*\0\x08\0\0\0\xff\xff",
        exif(),
        exif_with((300, 1), (300, 1), unit=1),
        exif_with((0, 1), (300, 1)),
        exif_with((300, 1), (300, 1))[:-8],
    ],
)
def test_an_exif_block_without_a_resolution(block: bytes | None) -> None:
    assert resolution.read_exif(block) is None
    assert resolution.write_exif(block, None) == block


def test_a_broken_exif_block_is_left_as_it_is() -> None:
    assert resolution.write_exif(b"II*\0\x08\0\0\0\xff\xff", (300, 300)) == b"II*\0\x08\0\0\0\xff\xff"


def test_a_short_bmp_header_has_none() -> None:
    assert resolution.read_bmp(b"BM" + bytes(12) + struct.pack("<I", 12) + bytes(40)) is None
