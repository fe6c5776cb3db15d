"""Decodes single-page TIFF: Pillow up to 8 bits per sample, OpenCV for 16 bits, own code for kinds that these lack."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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
    unpremultiply,
)
from app.imaging.decoders.tiff_directory import TiffPage, read_pages
from app.imaging.decoders.tiff_exif import read_exif
from app.imaging.decoders.tiff_layout import check_layout
from app.imaging.decoders.tiff_pixels import keep_pixels
from app.imaging.decoders.tiff_samples import read_samples as read_stored_samples

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
    if page.is_own:
        samples = _make_colors(read_stored_samples(data, page), page, icc)
        if page.photometric == _CMYK:
            warnings += ("color=srgb", "depth=8") if page.depth == 16 else ("color=srgb",)
            icc = None
    elif page.depth == 16 and page.photometric != _CMYK:
        samples = _decode_page_16_bit(keep_pixels(data, page), page)
    else:
        image = _open(keep_pixels(data, page), max_pixels)
        if image.mode in ("CMYK", "LAB"):
            warnings += ("color=srgb", "depth=8") if page.depth == 16 else ("color=srgb",)
        samples = read_samples(image, icc)
        icc = None if image.mode in ("CMYK", "LAB") else icc
    samples = apply_orientation(samples, page.orientation)
    density = resolution.read_exif(exif)
    if density and page.orientation >= 5:
        density = density[1], density[0]
    return Decoded(samples, exif, icc, xmp, warnings, upright=_ORIENTATION in page.tags, resolution=density)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Open a file whose directory is sound. Raises UnsupportedImage for a kind that Pillow does not know."""
    try:
        return open_with_pillow(data, "tiff", max_pixels)
    except UnidentifiedImageError as error:
        raise UnsupportedImage(
            "TIFF with this combination of colors, samples and compression is not supported. Save it as 8 or 16 bit "
            "gray or RGB.",
            field="image",
        ) from error


def _decode_page_16_bit(data: bytes, page: TiffPage) -> NDArray[Any]:
    """Return the samples, uint16 (height, width, 1, 3 or 4), with black as 0 and straight alpha."""
    return _make_colors(decode_16_bit(data, "tiff", page.samples), page, None)


def _make_colors(stored: NDArray[Any], page: TiffPage, icc: bytes | None) -> NDArray[Any]:
    """Return samples, (height, width, 1 to 4), of stored ones: gray or RGB with straight alpha, if there is any.

    CMYK is converted to sRGB of 8 bit.
    """
    white = np.iinfo(stored.dtype).max
    samples = stored[..., : page.colors]
    if page.white_is_zero:
        samples = white - samples
    alpha = stored[..., page.alpha_index, None] if page.alpha != "none" else None
    if alpha is not None and page.alpha == "premultiplied":
        samples = unpremultiply(samples, alpha)
    if page.photometric == _CMYK:
        inks, alpha = _reduce_to_8_bit(samples), None if alpha is None else _reduce_to_8_bit(alpha)
        samples = read_samples(Image.frombytes("CMYK", (page.width, page.height), inks.tobytes()), icc)
    return samples if alpha is None else np.concatenate([samples, alpha], axis=2)


def _reduce_to_8_bit(samples: NDArray[Any]) -> NDArray[np.uint8]:
    return samples.astype(np.uint8) if samples.dtype == np.uint8 else (samples >> 8).astype(np.uint8)


def _read_exif(data: bytes, page: TiffPage) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the descriptive tags of a TIFF as an EXIF block, or None if there are none, and warnings."""
    try:
        return read_exif(data, page), ()
    except (ValueError, struct.error):  # the pixels may still be good
        return None, ("exif=dropped",)
