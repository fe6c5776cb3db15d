"""Decoders, one module per format: bytes to samples, with the size checked before any library decodes the file.

A decoder may raise nearly any exception for a damaged file; `codec.decode` turns them into BrokenImage.
"""

from __future__ import annotations

from collections.abc import Callable

from app.imaging.decoders import avif, bmp, gif, heic, jpeg, png, tiff, webp
from app.imaging.decoders.base import Decoded, Size

SIZE_READERS: dict[str, Callable[[bytes], Size]] = {
    "jpeg": jpeg.read_size,
    "png": png.read_size,
    "webp": webp.read_size,
    "avif": avif.read_size,
    "heic": heic.read_size,
    "gif": gif.read_size,
    "bmp": bmp.read_size,
    "tiff": tiff.read_size,
}
"""By format: file to (width, height), from the header alone."""

DECODERS: dict[str, Callable[[bytes, int], Decoded]] = {
    "jpeg": jpeg.decode,
    "png": png.decode,
    "webp": webp.decode,
    "avif": avif.decode,
    "heic": heic.decode,
    "gif": gif.decode,
    "bmp": bmp.decode,
    "tiff": tiff.decode,
}
"""By format: (file, max_pixels) to samples and metadata."""
