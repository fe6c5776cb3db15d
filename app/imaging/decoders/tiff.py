"""Decodes single-page TIFF: Pillow up to 8 bits per sample, OpenCV for 16 bits, own code for 16-bit gray with alpha."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import AnimatedImage, UnsupportedImage
from app.imaging import resolution
from app.imaging.decoders.base import (
    Decoded,
    Size,
    apply_orientation,
    check_pixel_count,
    decode_16_bit,
    open_with_pillow,
    read_samples,
)
from app.imaging.decoders.tiff_directory import TiffPage, read_pages
from app.imaging.decoders.tiff_exif import read_exif
from app.imaging.decoders.tiff_layout import check_layout
from app.imaging.decoders.tiff_pixels import keep_pixels

_CMYK = 5  # photometric interpretation
_ORIENTATION, _XMP, _ICC = 0x0112, 0x02BC, 0x8773


def read_size(data: bytes) -> Size:
    """Return (width, height) of the first page."""
    page = read_pages(data)[0]
    return page.width, page.height


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a TIFF file.

    Raises TooManyPixels, AnimatedImage for several pages, UnsupportedImage, and whatever is raised for a damaged file.
    """
    pages = read_pages(data)
    page = pages[0]
    check_pixel_count(page.width, page.height, max_pixels)
    if len(pages) > 1:
        raise AnimatedImage("The tiff file has more than one page; send a single picture.", field="image")
    reason = page.why_unsupported()
    if reason:
        raise UnsupportedImage(f"{reason} Save it as 8 or 16 bit gray or RGB.", field="image")
    check_layout(data, page)
    icc, xmp = page.read_bytes(data, _ICC), page.read_bytes(data, _XMP)
    exif, warnings = _read_exif(data, page)
    if page.is_gray_alpha_16:
        samples = page.decode_gray_alpha(data)
    elif page.depth == 16 and page.photometric != _CMYK:
        samples = _decode_page_16_bit(keep_pixels(data, page), page)
    else:
        image = open_with_pillow(keep_pixels(data, page), "tiff", max_pixels)
        if image.mode in ("CMYK", "LAB"):
            warnings += ("color=srgb", "depth=8") if page.depth == 16 else ("color=srgb",)
        samples = read_samples(image, icc)
        icc = None if image.mode in ("CMYK", "LAB") else icc
    samples = apply_orientation(samples, page.orientation)
    density = resolution.read_exif(exif)
    if density and page.orientation >= 5:
        density = density[1], density[0]
    return Decoded(samples, exif, icc, xmp, warnings, upright=_ORIENTATION in page.tags, resolution=density)


def _decode_page_16_bit(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Return the samples, uint16 (height, width, 1, 3 or 4), as stored, with black as 0 and straight alpha."""
    samples = decode_16_bit(data, "tiff", page.samples)
    if page.white_is_zero:
        samples = np.iinfo(np.uint16).max - samples
    if page.samples == 4:
        if page.alpha == "none":
            return samples[..., :3]
        if page.alpha == "premultiplied":
            return _unpremultiply(samples)
    return samples


def _unpremultiply(samples: NDArray[Any]) -> NDArray[Any]:
    """Return (height, width, 4) samples with colors divided by alpha; colors under zero alpha become 0."""
    white = np.iinfo(samples.dtype).max
    result = samples.copy()
    for row in range(samples.shape[0]):
        alpha = samples[row, :, 3:].astype(np.float64)
        colors = samples[row, :, :3] * np.divide(white, alpha, out=np.zeros_like(alpha), where=alpha > 0)
        result[row, :, :3] = np.rint(np.minimum(colors, white))
    return result


def _read_exif(data: bytes, page: TiffPage) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the descriptive tags of a TIFF as an EXIF block, or None if there are none, and warnings."""
    try:
        return read_exif(data, page), ()
    except (ValueError, struct.error):  # the pixels may still be good
        return None, ("exif=dropped",)
