"""Decodes AVIF, with Pillow; 10 and 12 bits per sample are reduced to 8."""

from __future__ import annotations

import math
from dataclasses import replace

from app.imaging.decoders.base import Decoded, Size, check_pixel_count, decode_with_pillow, read_size_with_pillow

_SEARCH_BYTES = 1 << 16  # the boxes that describe the picture are near the beginning of the file


def read_size(data: bytes) -> Size:
    """Return the largest (width, height) that the file gives for any of its pictures."""
    sizes = []
    at = data.find(b"ispe", 0, _SEARCH_BYTES)
    while at >= 0:
        sizes.append((int.from_bytes(data[at + 8 : at + 12], "big"), int.from_bytes(data[at + 12 : at + 16], "big")))
        at = data.find(b"ispe", at + 1, _SEARCH_BYTES)
    return max(sizes, key=math.prod) if sizes else read_size_with_pillow(data, "avif")


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode an AVIF file. Raises TooManyPixels, AnimatedImage, and whatever Pillow raises for a damaged file."""
    check_pixel_count(*read_size(data), max_pixels)
    decoded = decode_with_pillow(data, "avif", max_pixels)
    config = data.find(b"av1C", 0, _SEARCH_BYTES)
    high_bit_depth = config >= 0 and bool(data[config + 6] & 0x40)
    return replace(decoded, warnings=(*decoded.warnings, "depth=8")) if high_bit_depth else decoded
