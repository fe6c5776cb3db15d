"""Color profiles: decides whether a picture keeps its ICC profile, and converts to sRGB where it cannot.

A picture keeps its own encoding and profile, since conversion to sRGB would clip wide-gamut colors. Only encodings that
networks are not trained on are converted: CMYK, CIELAB and linear light.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# XYZ relative to D50, as in profiles, to linear sRGB (IEC 61966-2-1, Bradford adaptation).
_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)
_SRGB = ImageCms.createProfile("sRGB")
_STRIP_ROWS = 256
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luminance (BT.601)."""


def read_color_space(icc: bytes) -> str | None:
    """Return the color space of a profile (`RGB`, `GRAY`, `CMYK`, `Lab`, …), or None if it is not a valid profile."""
    if len(icc) < 132 or icc[36:40] != b"acsp" or int.from_bytes(icc[:4], "big") > len(icc):
        return None
    return icc[16:20].decode("latin-1").strip()


def _read_tag(icc: bytes, name: bytes) -> bytes | None:
    """Return the content of a profile's tag, or None if it has no such tag."""
    (count,) = struct.unpack_from(">I", icc, 128)
    for i in range(min(count, 100)):
        entry = icc[132 + 12 * i : 144 + 12 * i]
        if entry[:4] == name and len(entry) == 12:
            offset, size = struct.unpack(">II", entry[4:])
            return icc[offset : offset + size]
    return None


def _is_identity(curve: bytes | None) -> bool:
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
    """Tell whether the values of this profile are proportional to light, as in scRGB. Raises struct.error."""
    if read_color_space(icc) == "GRAY":
        return _is_identity(_read_tag(icc, b"kTRC"))
    if _read_tag(icc, b"A2B0") is not None:
        return False
    return all(_is_identity(_read_tag(icc, name)) for name in (b"rTRC", b"gTRC", b"bTRC"))


def _read_rgb_to_xyz(icc: bytes) -> NDArray[np.float32] | None:
    """Return the (3, 3) matrix from linear RGB to XYZ, or None if the profile has none."""
    columns = []
    for name in (b"rXYZ", b"gXYZ", b"bXYZ"):
        tag = _read_tag(icc, name)
        if tag is None or len(tag) < 20:
            return None
        columns.append(np.array(struct.unpack_from(">3i", tag, 8), np.float32) / 65536)
    return np.stack(columns, axis=1)


def convert_linear_to_srgb(pixels: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """Convert linear pixels, uint8 or uint16 (height, width, 1 or 3), to sRGB, same dtype; out-of-gamut colors clip."""
    white = np.float32(np.iinfo(pixels.dtype).max)
    matrix = _read_rgb_to_xyz(icc) if pixels.shape[2] == 3 else None
    result = np.empty_like(pixels)
    for top in range(0, pixels.shape[0], _STRIP_ROWS):
        light = pixels[top : top + _STRIP_ROWS].astype(np.float32) / white
        result[top : top + _STRIP_ROWS] = np.rint(encode_srgb(light, matrix) * white)
    return result


def encode_srgb(light: NDArray[np.float32], rgb_to_xyz: NDArray[Any] | None) -> NDArray[np.float32]:
    """Return light, (height, width, 1 or 3) with white as 1, as sRGB from 0 to 1; colors out of gamut clip.

    `rgb_to_xyz` is the (3, 3) matrix of the light's own primaries to XYZ relative to D50, None for sRGB's or gray.
    """
    if rgb_to_xyz is not None:
        light = light @ (_XYZ_TO_SRGB @ rgb_to_xyz).astype(np.float32).T
    light = np.clip(light, 0.0, 1.0)
    result: NDArray[np.float32] = np.where(
        light <= 0.0031308, light * 12.92, 1.055 * light ** np.float32(1 / 2.4) - 0.055
    )
    return result


def normalize_profile(pixels: NDArray[Any], icc: bytes | None) -> tuple[NDArray[Any], bytes | None, tuple[str, ...]]:
    """Return the pixels, the profile that they keep, and warnings as in `Picture.warnings`.

    `pixels` are uint8 or uint16, (height, width, 1 or 3). Linear light is converted to sRGB; a profile that is invalid
    or for another number of channels is dropped.
    """
    if icc is None:
        return pixels, None, ()
    if read_color_space(icc) != ("GRAY" if pixels.shape[2] == 1 else "RGB"):
        return pixels, None, ("icc=dropped",)
    try:
        linear = is_linear(icc)
    except struct.error:
        return pixels, None, ("icc=dropped",)
    return (convert_linear_to_srgb(pixels, icc), None, ("color=srgb",)) if linear else (pixels, icc, ())


def convert_profile(pixels: NDArray[Any], source: bytes | None, target: bytes | None) -> NDArray[Any]:
    """Return pixels, uint8 or uint16 (height, width, 3), of the profile `source` in that of `target`; None is sRGB.

    The conversion is of 8 bit. Where a profile cannot be used the pixels are returned as they are.
    """
    if source == target:
        return pixels
    try:
        given, wanted = (ImageCms.ImageCmsProfile(BytesIO(icc) if icc else _SRGB) for icc in (source, target))
        converted = ImageCms.profileToProfile(
            Image.fromarray((pixels // (np.iinfo(pixels.dtype).max // 255)).astype(np.uint8)),
            given,
            wanted,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return pixels
    return np.asarray(converted).astype(pixels.dtype) * (np.iinfo(pixels.dtype).max // 255)


def convert_to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return a CMYK or LAB image as sRGB; CMYK without a fitting profile by complement (red = 1 - cyan, …)."""
    color_space = {"CMYK": "CMYK", "LAB": "Lab"}[image.mode]
    source: ImageCms.ImageCmsProfile | None = None
    if icc is not None and read_color_space(icc) == color_space:
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
