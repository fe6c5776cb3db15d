"""Decodes BMP: Pillow, and OpenCV for run-length coding, which Pillow takes a step of Python for each run."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from app.imaging import resolution
from app.imaging.decoders.base import (
    Decoded,
    Size,
    broken_image,
    decode_with_pillow,
    open_with_pillow,
    read_size_with_pillow,
)

_RUN_LENGTH = (1, 2)  # compression: 8 and 4 bits per pixel


def read_size(data: bytes) -> Size:
    """Return (width, height) from the header."""
    return read_size_with_pillow(data, "bmp")


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a BMP file. Raises TooManyPixels, UnsupportedImage, and whatever Pillow raises for a damaged file."""
    with open_with_pillow(data, "bmp", max_pixels) as image:
        if image.info.get("compression") in _RUN_LENGTH:
            decoded = _decode_run_lengths(data, image.size, gray=image.mode == "L")
        else:
            decoded = decode_with_pillow(data, "bmp", max_pixels)
    return replace(decoded, resolution=resolution.read_bmp(data))


def _decode_run_lengths(data: bytes, size: Size, *, gray: bool) -> Decoded:
    """Decode a file with a palette, of gray levels if `gray`. Raises BrokenImage."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is None or array.shape[1::-1] != size:
        raise broken_image("bmp")
    return Decoded(array[..., :1] if gray else array)
