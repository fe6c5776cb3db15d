"""Decodes AVIF, with Pillow; 10 and 12 bits per sample are reduced to 8."""

from __future__ import annotations

from app.imaging.decoders.base import Decoded, Size, check_pixel_count, open_with_pillow, read_samples
from app.imaging.decoders.stills import read_still


def read_size(data: bytes) -> Size:
    """Return the largest (width, height) that the file gives for its picture, a part of it, or its transparency."""
    return read_still(data, b"av01", "avif").size


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode an AVIF file.

    Raises TooManyPixels, AnimatedImage, UnsupportedImage, and whatever Pillow raises for a damaged file.
    """
    still = read_still(data, b"av01", "avif")
    check_pixel_count(*still.size, max_pixels)
    exif, xmp, warnings = still.read_metadata()
    encoding, color_warnings = still.read_encoding()
    warnings += color_warnings
    if still.first_header.depth > 8:
        warnings += ("depth=8",)
    samples = still.apply_transformations(read_samples(open_with_pillow(still.strip(), "avif", max_pixels)))
    return Decoded(samples, exif, still.icc, xmp, warnings, upright=True, encoding=encoding)
