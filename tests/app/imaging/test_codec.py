"""Decoding and encoding of every kind of file: pixels, metadata, limits and damaged files."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.errors import AnimatedImage, BrokenImage, InvalidField, ServiceError, TooManyPixels, UnsupportedImage
from app.imaging.codec import Output, decode, encode, list_losses, measure
from app.imaging.picture import Metadata, Picture
from tests.app.imaging.samples import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    XMP,
    chunk,
    exif,
    icc_cmyk,
    icc_gray,
    icc_rgb,
    noise,
    png,
    save_with_pillow,
    smooth,
)

MANY = 10**7


def read(data: bytes) -> Picture:
    return decode(data, max_pixels=MANY)


def samples(picture: Picture) -> NDArray[Any]:
    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=2)


def to_picture(array: NDArray[Any], **fields: Any) -> Picture:
    channels = 1 if array.shape[2] < 3 else 3
    alpha = array[..., channels].copy() if array.shape[2] > channels else None
    return Picture(array[..., :channels].copy(), alpha, **fields)


def tags(data: bytes) -> dict[int, Any]:
    """All EXIF tags of a file as an independent reader sees them."""
    image = Image.open(BytesIO(data))
    found = image.getexif()
    return {**dict(found), **dict(found.get_ifd(0x8769)), "thumbnail": dict(found.get_ifd(1))}


# Lossless kinds, exactly


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (name, n)
        for name, kinds in (("PNG", "1234"), ("TIFF", "1234"), ("WEBP", "34"), ("BMP", "13"))
        for n in map(int, kinds)
    ],
)
def test_8_bit_lossless(name: str, channels: int) -> None:
    array = noise(5, 7, channels)
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    picture = read(save_with_pillow(array, name, **options))
    np.testing.assert_array_equal(samples(picture), array)
    assert picture.format == name.lower()
    assert picture.pixels.dtype == np.uint8


def test_alpha_in_bmp() -> None:
    array = noise(5, 7, 4)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 7, 5, 1, 32, 3, 5 * 7 * 4, 0, 0, 0, 0) + masks + bytes(52)
    rows = array[::-1][..., [2, 1, 0, 3]].tobytes()
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows
    np.testing.assert_array_equal(samples(read(data)), array)


@pytest.mark.parametrize("color_channels", [(0, 1), (4, 2), (2, 3), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_png(color_channels: tuple[int, int], depth: int) -> None:
    color, channels = color_channels
    array = noise(5, 7, channels, np.uint16 if depth == 16 else np.uint8)
    extra = [(b"gAMA", struct.pack(">I", 45455)), (b"sBIT", bytes([3] * channels))]
    np.testing.assert_array_equal(samples(read(png(array, color, depth, *extra))), array)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_in_png(depth: int) -> None:
    top = (1 << depth) - 1
    values = (np.arange(12).reshape(3, 4) * 5) % (top + 1)
    key = int(values[1, 2])
    if depth == 16:
        rows = values[..., None]
    else:
        bits = (values[..., None] >> np.arange(depth)[::-1] & 1).reshape(3, -1).astype(np.uint8)
        rows = np.packbits(bits, axis=1)[..., None]
    picture = read(png(rows, 0, depth, (b"tRNS", struct.pack(">H", key)), width=4))
    white = 65535 if depth == 16 else 255
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.pixels[..., 0], values * (white // top))
    np.testing.assert_array_equal(picture.alpha, np.where(values == key, 0, white))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_in_png(depth: int) -> None:
    array = noise(5, 7, 3, np.uint16 if depth == 16 else np.uint8)
    array[2, 3] = array[4, 1]
    key = struct.pack(">3H", *(int(v) for v in array[2, 3]))
    picture = read(png(array, 2, depth, (b"tRNS", key)))
    expected = np.full((5, 7), picture.maximum)
    expected[2, 3] = expected[4, 1] = 0
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.pixels, array)
    np.testing.assert_array_equal(picture.alpha, expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_in_png(depth: int, transparent: bool) -> None:
    count = 1 << depth
    palette = noise(1, count, 4)[0]
    values = np.arange(12).reshape(3, 4) % count
    bits = (values[..., None] >> np.arange(depth)[::-1] & 1).reshape(3, -1).astype(np.uint8)
    extra = [(b"PLTE", palette[:, :3].tobytes())]
    if transparent:
        extra.append((b"tRNS", palette[: count // 2, 3].tobytes()))
    picture = read(png(np.packbits(bits, axis=1)[..., None], 3, depth, *extra, width=4))
    np.testing.assert_array_equal(picture.pixels, palette[values][..., :3])
    if transparent:
        opacity = palette[:, 3].copy()
        opacity[count // 2 :] = 255
        np.testing.assert_array_equal(picture.alpha, opacity[values])
    else:
        assert picture.alpha is None


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
def test_black_and_white(name: str) -> None:
    bits = noise(9, 13, 1)[..., 0] > 127
    picture = read(save_with_pillow(Image.fromarray(bits), name))
    np.testing.assert_array_equal(picture.pixels[..., 0], np.where(bits, 255, 0))


@pytest.mark.parametrize("name", ["GIF-like", "TIFF", "BMP"])
def test_a_palette_elsewhere(name: str) -> None:
    image = Image.fromarray(smooth(9, 13, 3)).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    data = save_with_pillow(image, "PNG" if name == "GIF-like" else name)
    np.testing.assert_array_equal(read(data).pixels, expected)


TIFFS = [
    ({"photometric": "minisblack"}, 1),
    ({"photometric": "miniswhite"}, 1),
    ({"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}, 2),
    ({"photometric": "rgb"}, 3),
    ({"photometric": "rgb", "extrasamples": ["unassalpha"]}, 4),
]


@pytest.mark.parametrize(("options", "channels"), TIFFS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["plain", "deflate", "predictor", "bigtiff", "tiles"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff(options: dict[str, Any], channels: int, dtype: type, layout: str, order: str) -> None:
    array = noise(40, 33, channels, dtype)
    more: dict[str, Any] = {
        "plain": {},
        "deflate": {"compression": "deflate"},
        "predictor": {"compression": "deflate", "predictor": True},
        "bigtiff": {"bigtiff": True},
        "tiles": {"tile": (16, 16)},
    }[layout]
    out = BytesIO()
    stored = array[..., 0] if channels == 1 else array
    tifffile.imwrite(out, stored, byteorder=order, rowsperstrip=None if "tile" in more else 7, **options, **more)
    expected = np.iinfo(dtype).max - array if options["photometric"] == "miniswhite" else array
    np.testing.assert_array_equal(samples(read(out.getvalue())), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_in_tiff_may_be_premultiplied_or_something_else(dtype: type) -> None:
    white = np.iinfo(dtype).max
    straight = noise(20, 20, 4, dtype)
    straight[..., 3] |= 1 << (dtype().itemsize * 8 - 1)
    premultiplied = straight.copy()
    premultiplied[..., :3] = np.rint(straight[..., :3].astype(float) * straight[..., 3:] / white)
    out = BytesIO()
    tifffile.imwrite(out, premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(samples(read(out.getvalue())).astype(int), straight.astype(int), atol=2)
    out = BytesIO()
    tifffile.imwrite(out, straight, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(samples(read(out.getvalue())), straight[..., :3])


@pytest.mark.parametrize("case", ["float", "int32", "signed", "12 bit"])
def test_unsupported_tiff(case: str) -> None:
    out = BytesIO()
    if case == "12 bit":
        data = bytearray(save_with_pillow(noise(4, 4, 1), "TIFF"))
        at = data.index(struct.pack("<HHI", 258, 3, 1))
        data[at + 8] = 12
        out.write(data)
    else:
        dtype = {"float": np.float32, "int32": np.uint32, "signed": np.int16}[case]
        tifffile.imwrite(out, np.ones((8, 8), dtype))
    with pytest.raises(UnsupportedImage, match="TIFF"):
        read(out.getvalue())


# JPEG


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}, {"optimize": True}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_libjpeg_says(options: dict[str, Any], channels: int) -> None:
    data = save_with_pillow(smooth(45, 67, channels), "JPEG", quality=95, **options)
    expected = np.asarray(Image.open(BytesIO(data))).reshape(45, 67, channels).astype(int)
    picture = read(data)
    assert picture.format == "jpeg"
    np.testing.assert_allclose(picture.pixels.astype(int), expected, atol=2)


def test_cmyk_becomes_srgb() -> None:
    array = smooth(45, 67, 3)
    data = save_with_pillow(Image.fromarray(array).convert("CMYK"), "JPEG", quality=98, subsampling=0)
    picture = read(data)
    assert picture.warnings == ("color=srgb",)
    assert picture.metadata.icc is None
    np.testing.assert_allclose(picture.pixels.astype(int), array.astype(int), atol=12)
    tiff = save_with_pillow(Image.fromarray(array).convert("CMYK"), "TIFF", icc_profile=icc_rgb(SRGB))
    picture = read(tiff)  # with a profile for something else
    assert picture.metadata.icc is None
    np.testing.assert_allclose(picture.pixels.astype(int), array.astype(int), atol=1)


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_is_read_through_its_profile(name: str) -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    plain, profiled = read(save_with_pillow(image, name)), read(save_with_pillow(image, name, icc_profile=icc_cmyk()))
    np.testing.assert_allclose(plain.pixels[8, 8].astype(int), [0, 255, 255], atol=3)
    red, green, blue = profiled.pixels[8, 8].astype(int)
    assert green > max(red, blue) + 50
    assert profiled.metadata.icc is None
    assert profiled.warnings == ("color=srgb",)


def test_cmyk_of_16_bit_becomes_srgb_of_8() -> None:
    array = np.zeros((6, 8, 4), np.uint16)
    array[..., 0] = 65535
    out = BytesIO()
    tifffile.imwrite(out, array, photometric="separated")
    picture = read(out.getvalue())
    assert picture.warnings == ("color=srgb", "depth=8")
    assert picture.pixels[0, 0].tolist() == [0, 255, 255]


def test_lab_becomes_srgb() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    array = smooth(20, 30, 3)
    image = ImageCms.profileToProfile(Image.fromarray(array), srgb, lab, outputMode="LAB")
    assert image is not None
    picture = read(save_with_pillow(image, "TIFF"))
    assert picture.warnings == ("color=srgb",)
    difference = np.abs(picture.pixels.astype(int) - array.astype(int))
    assert difference.mean() < 1.5
    assert difference.max() < 20  # in dark, saturated corners 8 bits of Lab are coarse


def test_the_first_picture_of_an_mpo() -> None:
    first, second = smooth(20, 30, 3), noise(20, 30, 3)
    data = save_with_pillow(
        Image.fromarray(first), "MPO", save_all=True, append_images=[Image.fromarray(second)], quality=95
    )
    picture = read(data)
    assert picture.warnings == ("mpo=first",)
    assert picture.format == "jpeg"
    np.testing.assert_allclose(picture.pixels.astype(int), first.astype(int), atol=16)


def test_stray_bytes_in_a_jpeg_are_ignored() -> None:
    data = save_with_pillow(smooth(45, 67, 3), "JPEG")
    at = data.index(b"\xff\xdb")
    np.testing.assert_array_equal(read(data[:at] + b"zz" + data[at:]).pixels, read(data).pixels)
    np.testing.assert_array_equal(read(data + b"trailing").pixels, read(data).pixels)


def test_unsupported_kinds_of_jpeg_are_named() -> None:
    data = bytearray(save_with_pillow(smooth(16, 16, 3), "JPEG"))
    at = data.index(b"\xff\xc0")
    for offset, value in ((1, 0xC3), (1, 0xC9), (4, 12)):
        odd = bytearray(data)
        odd[at + offset] = value
        with pytest.raises(UnsupportedImage, match="not supported"):
            read(bytes(odd))


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "png16", "webp", "avif", "tiff", "tiff16"])
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = smooth(32, 48, 3, np.uint16 if kind.endswith("16") else np.uint8)
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    stored = np.ascontiguousarray(turn[undo](upright))
    block = b"Exif\0\0" + exif(orientation)
    if kind == "tiff16":
        out = BytesIO()
        tifffile.imwrite(out, stored, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        data = out.getvalue()
    elif kind == "png16":
        data = png(stored, 2, 16, (b"eXIf", exif(orientation)))
    elif kind == "tiff":
        described = Image.Exif()
        described[0x0112] = orientation
        data = save_with_pillow(stored, "TIFF", exif=described)
    else:
        options = {"jpeg": {"quality": 97, "subsampling": 0}, "webp": {"lossless": True}, "avif": {"quality": 97}}
        data = save_with_pillow(stored, kind.upper(), exif=block, **options.get(kind, {}))
    picture = read(data)
    assert picture.pixels.shape == upright.shape
    tolerance = 0 if kind in ("png", "png16", "webp", "tiff", "tiff16") else 8
    np.testing.assert_allclose(picture.pixels.astype(int), upright.astype(int), atol=tolerance)
    again, _ = encode(picture, Output("png"))
    assert tags(again).get(0x0112, 1) == 1


# Metadata


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "tiff", "avif"])
def test_metadata_survives(name: str, order: str) -> None:
    thumbnail = b"SECRET THUMBNAIL" * 20
    profile = icc_rgb(DISPLAY_P3)
    block = b"Exif\0\0" + exif(6, order, thumbnail)
    data = save_with_pillow(smooth(16, 24, 3), "JPEG", exif=block, icc_profile=profile, xmp=XMP)
    assert b"SECRET" in data
    picture = read(data)
    big = picture.with_pixels(picture.pixels.repeat(2, 0).repeat(2, 1), None)
    encoded, _ = encode(big, Output(name))
    image = Image.open(BytesIO(encoded))
    assert image.size == (32, 48)
    assert image.info["icc_profile"] == profile
    found = tags(encoded)
    assert found[0x010F].startswith("Maker of cameras")
    assert found.get(0x0112, 1) == 1
    assert (found[0xA002], found[0xA003]) == (32, 48)
    assert not found["thumbnail"]
    assert b"SECRET" not in encoded
    assert not list_losses(big, Output(name))
    xmp = read(encoded).metadata.xmp
    assert xmp is not None
    assert b"a test" in xmp
    assert b'tiff:Orientation="1"' in xmp
    again = read(encoded)
    assert again.metadata.icc == profile
    assert again.warnings == ()
    image.load()


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("metadata", ["keep", "color", "strip"])
def test_metadata_option_selects_what_is_kept(name: str, metadata: Any) -> None:
    kept = Metadata(exif(), icc_rgb(ADOBE_RGB), XMP)
    picture = to_picture(smooth(16, 24, 3), metadata=kept)
    found = read(encode(picture, Output(name, metadata=metadata))[0]).metadata
    assert (found.exif is not None) == (found.xmp is not None) == (metadata == "keep")
    assert (found.icc == kept.icc) == (metadata != "strip")


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "tiff", "avif"])
def test_large_metadata(name: str) -> None:
    large = Metadata(exif(filler=70_000), icc_rgb(DISPLAY_P3, padding=200_000), XMP + b" " * 70_000)
    picture = to_picture(smooth(16, 24, 3), metadata=large)
    encoded, _ = encode(picture, Output(name))
    found = read(encoded)
    assert found.metadata.icc == large.icc
    dropped = ("exif=dropped", "xmp=dropped") if name == "jpeg" else ()
    assert list_losses(picture, Output(name)) == dropped
    assert (found.metadata.exif is None, found.metadata.xmp is None) == (bool(dropped), bool(dropped))


@pytest.mark.parametrize(
    "block",
    [
        b"nonsense",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        exif()[:40],
        exif(thumbnail=b"x" * 50)[:-60],
        exif().replace(struct.pack("<HHI", 0x8769, 4, 1), struct.pack("<HHI", 0x8769, 4, 1) + b"\xff\xff\xff\x7f")[:-4],
    ],
)
@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_broken_exif_is_dropped_with_a_warning(block: bytes, name: str) -> None:
    array = noise(6, 8, 3)
    in_png = name == "PNG"
    data = png(array, 2, 8, (b"eXIf", block)) if in_png else save_with_pillow(array, name, lossless=True, exif=block)
    picture = read(data)
    assert picture.metadata.exif is None
    assert picture.warnings == ("exif=dropped",)
    np.testing.assert_array_equal(picture.pixels, array)


@pytest.mark.parametrize("rest", ["exif", "link"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_is_upright_though_its_exif_is_broken_behind_the_orientation(
    rest: str, order: str, kind: str
) -> None:
    block = bytearray(exif(6, order))
    # Where the pointer to the Exif directory and the link to the thumbnail's stand, in a directory of three entries.
    struct.pack_into(order + "I", block, {"exif": 10 + 2 * 12 + 8, "link": 10 + 3 * 12}[rest], 0x20202020)
    array = smooth(6, 8, 3)
    data = png(array, 2, 8, (b"eXIf", bytes(block)))
    if kind == "jpeg":
        data = save_with_pillow(array, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + bytes(block))
    picture = read(data)
    assert (picture.width, picture.height) == (6, 8)
    assert np.abs(picture.pixels.astype(int) - np.rot90(array, -1)).max() <= (0 if kind == "png" else 4)
    # Nothing turns it a second time.
    assert picture.metadata.exif is None
    assert picture.warnings == ("exif=dropped",)


@given(st.data())
@settings(max_examples=100)
def test_no_exif_block_prevents_decoding(data: st.DataObject) -> None:
    block = bytearray(exif(6, thumbnail=b"x" * 30))
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    picture = read(png(noise(6, 8, 3), 2, 8, (b"eXIf", bytes(block))))
    for name in ("jpeg", "png", "tiff"):
        read(encode(picture, Output(name))[0])


def test_a_profile_for_something_else_is_dropped() -> None:
    gray, color = noise(6, 8, 1), noise(6, 8, 3)
    for array, profile, kept in (
        (gray, icc_gray(), True),
        (gray, icc_rgb(SRGB), False),
        (color, icc_rgb(SRGB), True),
        (color, icc_gray(), False),
        (color, b"nonsense" * 40, False),
    ):
        picture = read(save_with_pillow(array, "PNG", icc_profile=profile))
        assert picture.metadata.icc == (profile if kept else None)
        assert picture.warnings == (() if kept else ("icc=dropped",))
        np.testing.assert_array_equal(picture.pixels, array)


def test_gray_profiles_are_dropped_for_formats_without_gray() -> None:
    picture = to_picture(smooth(6, 8, 1), metadata=Metadata(icc=icc_gray()))
    assert list_losses(picture, Output("webp")) == ("icc=dropped",)
    assert read(encode(picture, Output("webp"))[0]).metadata.icc is None
    assert read(encode(picture, Output("jpeg"))[0]).metadata.icc == icc_gray()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_linear_light_becomes_srgb(dtype: type) -> None:
    white = np.iinfo(dtype).max
    linear = smooth(20, 30, 3, dtype)
    out = BytesIO()
    profile = icc_rgb(SRGB, gamma=1)
    tifffile.imwrite(out, linear, photometric="rgb", iccprofile=profile)
    picture = read(out.getvalue())
    assert picture.warnings == ("color=srgb",)
    assert picture.metadata.icc is None
    x = linear / white
    expected = np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055) * white
    np.testing.assert_allclose(picture.pixels, expected, atol=max(1, white * 6e-4))
    if dtype == np.uint8:  # and the color management library agrees, for primaries that are not sRGB's
        wide = icc_rgb(DISPLAY_P3, gamma=1)
        judged = ImageCms.profileToProfile(
            Image.fromarray(linear), ImageCms.ImageCmsProfile(BytesIO(wide)), ImageCms.createProfile("sRGB")
        )
        ours = read(save_with_pillow(linear, "PNG", icc_profile=wide)).pixels
        np.testing.assert_allclose(ours.astype(int), np.asarray(judged).astype(int), atol=2)


# Limits and damaged files


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_too_many_pixels(name: str) -> None:
    data = save_with_pillow(smooth(20, 30, 3), name)
    assert decode(data, max_pixels=600).pixels.shape == (20, 30, 3)
    with pytest.raises(TooManyPixels) as caught:
        decode(data, max_pixels=599)
    assert caught.value.limit == 599
    assert caught.value.value == 600
    assert measure(data, max_pixels=600) == (30, 20)
    with pytest.raises(TooManyPixels):
        measure(data, max_pixels=599)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_picture_is_measured_by_its_header_alone(name: str) -> None:
    data = save_with_pillow(noise(200, 300, 3), name)
    begin = len(data) if name == "TIFF" else 1000  # a TIFF's directory may stand at its end
    assert measure(data[:begin], max_pixels=MANY) == (300, 200)
    with pytest.raises(BrokenImage):
        measure(data[:20], max_pixels=MANY)


def test_decompression_bombs_are_refused_by_their_header() -> None:
    side = struct.pack(">I", 60_000)
    bombs = {
        "png": bytearray(png(noise(2, 2, 3, np.uint16), 2, 16)),
        "jpeg": bytearray(save_with_pillow(smooth(20, 30, 3), "JPEG")),
        "webp": bytearray(save_with_pillow(smooth(20, 30, 4), "WEBP")),
        "webp lossless": bytearray(save_with_pillow(smooth(20, 30, 3), "WEBP", lossless=True)),
        "webp lossy": bytearray(save_with_pillow(smooth(20, 30, 3), "WEBP")),
        "bmp": bytearray(save_with_pillow(smooth(20, 30, 3), "BMP")),
        "tiff": bytearray(save_with_pillow(smooth(20, 30, 3), "TIFF")),
        "avif": bytearray(save_with_pillow(smooth(20, 30, 3), "AVIF")),
    }
    bombs["png"][16:24] = side + side
    at = bombs["jpeg"].index(b"\xff\xc0")
    bombs["jpeg"][at + 5 : at + 9] = b"\xf0\0\xf0\0"
    bombs["webp"][24:30] = b"\xff\x3f\0\xff\x3f\0"
    bombs["webp lossless"][21:25] = b"\xff\xff\xff\x0f"
    bombs["webp lossy"][26:30] = b"\xff\x3f\xff\x3f"
    bombs["bmp"][18:26] = struct.pack("<II", 60_000, 60_000)
    for tag in (256, 257):
        at = bombs["tiff"].index(struct.pack("<H", tag))
        bombs["tiff"][at + 2 : at + 12] = struct.pack("<HII", 4, 1, 60_000)
    at = bombs["avif"].index(b"ispe")
    bombs["avif"][at + 8 : at + 16] = side + side
    for data in bombs.values():
        for read_header in (decode, measure):
            with pytest.raises(TooManyPixels):
                read_header(bytes(data), max_pixels=64_000_000)


def test_a_tiff_with_two_sizes_is_refused() -> None:
    out = BytesIO()
    tifffile.imwrite(out, noise(8, 8, 3, np.uint16), photometric="rgb")
    data = bytearray(out.getvalue())
    at = data.index(struct.pack("<HH", 257, 4))
    data[at : at + 2] = struct.pack("<H", 256)
    with pytest.raises(BrokenImage):
        read(bytes(data))


KINDS = {
    "jpeg": lambda: save_with_pillow(smooth(40, 60, 3), "JPEG"),
    "jpeg progressive": lambda: save_with_pillow(smooth(40, 60, 3), "JPEG", progressive=True),
    "jpeg cmyk": lambda: save_with_pillow(Image.fromarray(smooth(40, 60, 3)).convert("CMYK"), "JPEG"),
    "png": lambda: save_with_pillow(noise(40, 60, 3), "PNG"),
    "png 16": lambda: png(noise(40, 60, 4, np.uint16), 6, 16),
    "webp": lambda: save_with_pillow(noise(40, 60, 3), "WEBP"),
    "tiff": lambda: save_with_pillow(noise(40, 60, 3), "TIFF", compression="tiff_lzw"),
    "tiff 16": lambda: encode(to_picture(noise(40, 60, 3, np.uint16)), Output("tiff"))[0],
    "tiff 16 gray alpha": lambda: encode(to_picture(noise(40, 60, 2, np.uint16)), Output("tiff"))[0],
    "bmp": lambda: save_with_pillow(noise(40, 60, 3), "BMP"),
    "avif": lambda: save_with_pillow(smooth(40, 60, 3), "AVIF"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_a_truncated_file_is_broken(kind: str, share: float) -> None:
    data = KINDS[kind]()
    with pytest.raises(BrokenImage, match="truncated or corrupt"):
        read(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_damaged_files_raise_service_errors_only(kind: str, data: st.DataObject) -> None:
    data_with_errors = bytearray(KINDS[kind]())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(
            st.integers(0, len(data_with_errors) - 1) | st.integers(0, min(200, len(data_with_errors) - 1))
        )
        data_with_errors[place] = data.draw(st.integers(0, 255))
    try:
        picture = decode(bytes(data_with_errors), max_pixels=100_000)
    except ServiceError:
        return
    assert picture.width * picture.height <= 100_000


UNSUPPORTED = [
    (b"%PDF-1.7", "a PDF"),
    (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
    (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
    (b"<!doctype html>", "HTML"),
    (b"hello", "plain text"),
    (b"", "an empty file"),
    (bytes(100), "zeros"),
    (b"P6 2 2 255\n" + bytes(12), "PNM"),
    (bytes(range(7, 250)), "no known format"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera RAW"),
    (b"II*\0\x10\0\0\0CR\2\0" + bytes(30), "a camera RAW"),
    (b"PK\x03\x04" + bytes(30), "ZIP"),
]


@pytest.mark.parametrize(("data", "name"), UNSUPPORTED)
def test_unsupported_files_are_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImage, match=name):
        read(data)


def test_camera_raw_is_not_taken_for_its_thumbnail() -> None:
    """DNG has a tag of its own; others have a thumbnail first, and the picture in a directory below."""
    dng, other = BytesIO(), BytesIO()
    tifffile.imwrite(dng, noise(8, 8, 3), photometric="rgb", extratags=[(0xC612, 1, 4, b"\1\4\0\0", True)])
    with tifffile.TiffWriter(other) as writer:
        writer.write(noise(8, 8, 3), photometric="rgb", subfiletype=1, subifds=1)
        writer.write(noise(32, 32, 1, np.uint16)[..., 0])
    for file in (dng, other):
        with pytest.raises(UnsupportedImage, match="camera RAW"):
            read(file.getvalue())


def test_animations_are_refused() -> None:
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(2)] + [Image.fromarray(smooth(8, 8, 3))]
    for name in ("PNG", "WEBP", "AVIF", "TIFF"):
        data = save_with_pillow(frames[0], name, save_all=True, append_images=frames[1:])
        with pytest.raises(AnimatedImage, match="page" if name == "TIFF" else "frames"):
            read(data)


def test_a_thumbnail_in_a_tiff_is_not_a_page() -> None:
    array = noise(20, 30, 3)
    out = BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(array, photometric="rgb")
        writer.write(array[::4, ::4], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read(out.getvalue()).pixels, array)


# Encoding


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (301, 2), (600, 900)])
@pytest.mark.parametrize("name", ["png", "tiff"])
def test_lossless_formats(channels: int, dtype: type, size: tuple[int, int], name: str) -> None:
    array = noise(*size, channels, dtype)
    data, content_type = encode(to_picture(array), Output(name))
    assert content_type == f"image/{name}"
    np.testing.assert_array_equal(samples(read(data)), array)
    if name == "tiff":
        judged: NDArray[Any] = tifffile.imread(BytesIO(data)).reshape(array.shape)
    else:
        judged = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        judged = (
            judged[..., None] if channels == 1 else judged[..., {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]]
        )
    np.testing.assert_array_equal(judged, array)
    Image.open(BytesIO(data)).load() if name == "png" or (dtype, channels) != (np.uint16, 2) else None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["webp", "avif"])
def test_lossless_modes(channels: int, name: str) -> None:
    array = noise(33, 47, channels)
    if channels in (2, 4):
        array[:10, :, -1] = 0  # color under full transparency is kept too
    found = read(encode(to_picture(array), Output(name, lossless=True))[0])
    expected = array if channels > 2 or found.channels == 1 else array[..., [0, 0, 0, 1][: channels + 2]]
    np.testing.assert_array_equal(samples(found), expected)


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lower_quality_gives_smaller_files_and_larger_errors(name: str, channels: int) -> None:
    array = np.clip(smooth(120, 160, channels).astype(int) + noise(120, 160, channels) // 8, 0, 255).astype(np.uint8)
    sizes, errors = [], []
    for quality in (10, 50, 95):
        data, _ = encode(to_picture(array), Output(name, quality=quality))
        found = read(data).pixels[..., :channels]
        sizes.append(len(data))
        errors.append(float(np.square(found.astype(float) - array).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 80


def test_jpeg_keeps_full_chroma_from_quality_90() -> None:
    picture = to_picture(smooth(16, 16, 3))
    for quality, expected in ((90, "444"), (89, "420")):
        data, _ = encode(picture, Output("jpeg", quality=quality))
        assert simplejpeg.decode_jpeg_header(data)[3] == expected


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_16_bit_is_rounded_to_8(name: str) -> None:
    deep = np.full((16, 16, 3), 0x80C0, np.uint16)
    picture = to_picture(deep)
    assert list_losses(picture, Output(name)) == ("depth=8",)
    found = read(encode(picture, Output(name, quality=100, lossless=name != "jpeg"))[0])
    assert found.pixels.dtype == np.uint8
    np.testing.assert_allclose(found.pixels.astype(int), round(0x80C0 / 257), atol=name == "jpeg")


def test_a_format_that_cannot_store_the_picture_is_an_invalid_field() -> None:
    transparent = to_picture(smooth(4, 4, 4))
    with pytest.raises(InvalidField, match="transparency; choose png") as caught:
        encode(transparent, Output("jpeg"))
    assert caught.value.field == "format"
    wide = Picture(np.zeros((1, 70_000, 1), np.uint8))
    for name in ("jpeg", "webp", "avif"):
        with pytest.raises(InvalidField, match="70000 px"):
            encode(wide, Output(name))
    for name in ("png", "tiff"):
        assert read(encode(wide, Output(name))[0]).width == 70_000


def test_encoding_is_deterministic() -> None:
    picture = to_picture(smooth(40, 60, 4), metadata=Metadata(exif(), icc_rgb(SRGB), XMP))
    for name in ("png", "webp", "tiff", "avif"):
        assert encode(picture, Output(name)) == encode(replace(picture), Output(name))


def test_metadata_after_the_pixels_of_a_png() -> None:
    data = png(noise(4, 4, 3), 2, 8)
    late = data[:-12] + chunk(b"eXIf", exif(3)) + data[-12:]
    np.testing.assert_array_equal(read(late).pixels, read(data).pixels[::-1, ::-1])


def malicious_files() -> dict[str, bytes]:
    """Files of a few megabytes that would cost far more work than usual for their size."""
    base = bytearray(save_with_pillow(smooth(16, 16, 1), "JPEG"))
    at = base.index(b"\xff\xc0") + 5
    base[at : at + 4] = struct.pack(">HH", 5000, 5000)
    jpeg = save_with_pillow(noise(8, 8, 3), "JPEG")
    picture = png(noise(8, 8, 3), 2, 8)
    unclosed = b"<xmp:Thumbnails" * 200_000
    pieces = struct.pack("<HHII", 0x0111, 3, 65535, 40) + struct.pack("<HHII", 0x0117, 3, 65535, 40)
    strips = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 14) + struct.pack("<H", 2) + pieces
    looped = b"".join(struct.pack("<I", 8 + 2 * i) for i in range(1000))
    packet = b"XML:com.adobe.xmp\0\0\0\0\0" + unclosed
    bomb = b"icc\0\0" + zlib.compress(bytes(1 << 25), 9)
    return {
        "scans": bytes(base[:-2]) + b"\xff\xda\0\2" * 1000 + b"\xff\xd9",
        "markers": jpeg[:-2] + b"\xff\x01" * 10_000_000 + jpeg[-2:],
        "segments": jpeg[:2] + b"\xff\xe0\0\2" * 1_000_000 + jpeg[2:],
        "chunks": picture[:33] + chunk(b"teXt", b"") * 500_000 + picture[33:],
        "thumbnails": png(noise(8, 8, 3), 2, 8, (b"iTXt", packet)),
        "profiles": png(noise(8, 8, 3), 2, 8, *[(b"iCCP", bomb)] * 500),
        "strips": png(noise(8, 8, 3), 2, 8, (b"eXIf", strips + b"\xff" * 2_000_000)),
        "directories": b"II*\0\x08\0\0\0" + b"\xff\xff" * 500_000 + looped,
    }


@pytest.mark.timeout(60)
def test_work_is_bounded_by_file_size() -> None:
    for name, data in malicious_files().items():
        try:
            picture = read(data) if name != "scans" else decode(data, max_pixels=30_000_000)
        except (UnsupportedImage, BrokenImage):
            assert name in ("scans", "markers", "segments", "chunks", "directories")
        else:
            assert picture.width == 8, name


def test_a_video_appended_to_a_jpeg_is_ignored() -> None:
    picture = noise(2400, 2400, 1).repeat(3, axis=-1)
    video = b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 400
    for progressive in (False, True):
        photo = save_with_pillow(picture, "JPEG", progressive=progressive)
        np.testing.assert_array_equal(read(photo + video).pixels, read(photo).pixels)


def test_thumbnails_are_removed_from_xmp() -> None:
    thumbnails = b"<xmp:Thumbnails><rdf:Alt>SECRET</rdf:Alt></xmp:Thumbnails>"
    packet = XMP.replace(b"<dc:source>", thumbnails + b"<dc:source>")
    picture = read(png(noise(8, 8, 3), 2, 8, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)))
    assert picture.metadata.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')


def test_an_invalid_profile_is_dropped() -> None:
    profile = icc_rgb(SRGB)
    short = struct.pack(">I", 131) + profile[4:131]
    curves = profile.replace(b"curv", b"curv", 1)[:-4]
    for broken in (short, curves, bytes(200)):
        picture = read(png(noise(8, 8, 3), 2, 8, (b"iCCP", b"icc\0\0" + zlib.compress(broken))))
        assert (picture.metadata.icc, picture.warnings) == (None, ("icc=dropped",))
