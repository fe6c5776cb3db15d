"""Colour encodings: which profile stays with which pixels, and what is turned into sRGB.

A picture keeps its own encoding and profile; a trip through sRGB would clip wide colours for good. Only what no
network should see is converted: CMYK and CIELAB (other channels) and linear light (other contrast).
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# XYZ relative to D50, as profiles have it, to linear sRGB (IEC 61966-2-1, Bradford adaptation).
_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)
_STRIP_ROWS = 256
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""What red, green and blue add to luminance (BT.601)."""


def space(icc: bytes) -> str | None:
    """Return the colour space of a profile (`RGB`, `GRAY`, `CMYK`, `Lab`, …), or None where it is no profile."""
    if len(icc) < 132 or icc[36:40] != b"acsp" or int.from_bytes(icc[:4], "big") > len(icc):
        return None
    return icc[16:20].decode("latin-1").strip()


def _tag(icc: bytes, name: bytes) -> bytes | None:
    (count,) = struct.unpack_from(">I", icc, 128)
    for i in range(min(count, 100)):
        entry = icc[132 + 12 * i : 144 + 12 * i]
        if entry[:4] == name and len(entry) == 12:
            offset, size = struct.unpack(">II", entry[4:])
            return icc[offset : offset + size]
    return None


def _is_line(curve: bytes | None) -> bool:
    """Tell whether a `curv` or `para` tag is the identity."""
    if curve is None or len(curve) < 12:
        return False
    count, first = struct.unpack_from(">IH", curve.ljust(14, b"\0"), 8)
    if curve[:4] == b"curv":
        if count == 2:
            return curve[12:16] == b"\0\0\xff\xff"
        return bool(count == 0 or (count == 1 and first == 0x0100))
    return curve[:4] == b"para" and curve[8:10] == b"\0\0" and curve[12:16] == b"\0\1\0\0"


def is_linear(icc: bytes) -> bool:
    """Tell whether the values under this profile are proportional to light, as in scRGB."""
    if space(icc) == "GRAY":
        return _is_line(_tag(icc, b"kTRC"))
    if _tag(icc, b"A2B0") is not None:
        return False
    return all(_is_line(_tag(icc, name)) for name in (b"rTRC", b"gTRC", b"bTRC"))


def _columns(icc: bytes) -> NDArray[np.float32] | None:
    """Return the matrix from linear RGB to XYZ of a matrix profile."""
    columns = []
    for name in (b"rXYZ", b"gXYZ", b"bXYZ"):
        tag = _tag(icc, name)
        if tag is None or len(tag) < 20:
            return None
        columns.append(np.array(struct.unpack_from(">3i", tag, 8), np.float32) / 65536)
    return np.stack(columns, axis=1)


def from_linear(pixels: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """Return linear pixels, (height, width, 1 or 3), in sRGB, same dtype; colours outside sRGB are clipped."""
    white = np.float32(np.iinfo(pixels.dtype).max)
    columns = _columns(icc) if pixels.shape[2] == 3 else None
    result = np.empty_like(pixels)
    for top in range(0, pixels.shape[0], _STRIP_ROWS):
        light = pixels[top : top + _STRIP_ROWS].astype(np.float32) / white
        if columns is not None:
            light = light @ (_XYZ_TO_SRGB @ columns).T
        light = np.clip(light, 0.0, 1.0)
        curved = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
        result[top : top + _STRIP_ROWS] = np.rint(curved * white)
    return result


def settle(pixels: NDArray[Any], icc: bytes | None) -> tuple[NDArray[Any], bytes | None, tuple[str, ...]]:
    """Return grey or RGB pixels, the profile that stays with them, and notes on what was decided."""
    if icc is None:
        return pixels, None, ()
    if space(icc) != ("GRAY" if pixels.shape[2] == 1 else "RGB"):
        return pixels, None, ("icc=dropped",)
    try:
        linear = is_linear(icc)
    except struct.error:
        return pixels, None, ("icc=dropped",)
    return (from_linear(pixels, icc), None, ("color=srgb",)) if linear else (pixels, icc, ())


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return a CMYK or LAB image as sRGB; CMYK without a profile by the usual complement."""
    wanted = {"CMYK": "CMYK", "LAB": "Lab"}[image.mode]
    source: ImageCms.ImageCmsProfile | None = None
    if icc is not None and space(icc) == wanted:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc))
        except OSError:
            source = None
    if source is None and image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if source is None:
        return image.convert("RGB")
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        converted = ImageCms.profileToProfile(
            image,
            source,
            target,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:
        converted = None
    return converted if converted is not None else image.convert("RGB")
