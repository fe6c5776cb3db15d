"""Decodes WebP, with Pillow."""

from __future__ import annotations

from app.imaging.decoders.base import Decoded, Size, check_pixel_count, decode_with_pillow


def read_size(data: bytes) -> Size:
    """Return (width, height) of the canvas from the header."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    return width, height


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a WebP file. Raises TooManyPixels, AnimatedImage, and whatever Pillow raises for a damaged file."""
    # Pillow allocates the whole canvas when it opens the file, so the size is checked before.
    check_pixel_count(*read_size(data), max_pixels)
    return decode_with_pillow(data, "webp", max_pixels)
