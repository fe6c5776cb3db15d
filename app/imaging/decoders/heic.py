"""Decodes HEIC (HEIF with HEVC), with pi-heif, which is optional: the extra `heif`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import UnsupportedImage
from app.imaging.decoders.base import Decoded, Size, check_pixel_count, unpremultiply
from app.imaging.decoders.stills import read_still

try:
    import pi_heif
except ImportError:
    pi_heif = None  # the rest of the service needs nothing of it


def read_size(data: bytes) -> Size:
    """Return the largest (width, height) that the file gives for its picture, a part of it, or its transparency.

    Raises UnsupportedImage if pi-heif is not installed.
    """
    if pi_heif is None:
        raise UnsupportedImage(
            "The file is a HEIC picture, and HEIC support is not installed here. The operator can install it with "
            "`pip install 'restore[heif]'`; `make serve` and the image have it.",
            field="image",
        )
    return read_still(data, b"hvc1", "heic").size


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a HEIC file; 10 and 12 bits per sample become 16.

    Raises TooManyPixels, AnimatedImage, UnsupportedImage, and whatever pi-heif raises for a damaged file.
    """
    check_pixel_count(*read_size(data), max_pixels)
    still = read_still(data, b"hvc1", "heic")
    exif, xmp, warnings = still.read_metadata()
    encoding, color_warnings = still.read_encoding()
    samples = still.apply_transformations(_decode_samples(still.strip(), max_pixels))
    if still.first_header.gray and samples.shape[2] > 2:  # libheif gives gray with alpha as RGB
        samples = samples[..., [0, 3]] if samples.shape[2] == 4 else samples[..., :1]
    return Decoded(samples, exif, still.icc, xmp, warnings + color_warnings, upright=True, encoding=encoding)


def _decode_samples(data: bytes, max_pixels: int) -> NDArray[Any]:
    """Return the samples of a stripped file: uint8 or uint16, (height, width, 1 to 4), with straight alpha."""
    image = pi_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    width, height = image.size
    check_pixel_count(width, height, max_pixels)
    samples = np.array(image)  # a copy: the memory goes with `image`
    if samples.ndim == 2:
        samples = samples[..., None]
    depth = image.info["bit_depth"]
    if samples.dtype == np.uint16:
        samples = _make_depth_table(depth)[np.minimum(samples, (1 << depth) - 1)]
    if image.premultiplied_alpha:
        samples[..., :-1] = unpremultiply(samples[..., :-1], samples[..., -1:])
    return samples


@cache
def _make_depth_table(depth: int) -> NDArray[np.uint16]:
    """Return the 16-bit value of every value of `depth` bits."""
    return np.rint(np.linspace(0, 65535, 1 << depth)).astype(np.uint16)
