"""Decodes BMP, with Pillow."""

from __future__ import annotations

from dataclasses import replace

from app.imaging import resolution
from app.imaging.decoders.base import Decoded, Size, decode_with_pillow, read_size_with_pillow


def read_size(data: bytes) -> Size:
    """Return (width, height) from the header."""
    return read_size_with_pillow(data, "bmp")


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a BMP file. Raises TooManyPixels, UnsupportedImage, and whatever Pillow raises for a damaged file."""
    return replace(decode_with_pillow(data, "bmp", max_pixels), resolution=resolution.read_bmp(data))
