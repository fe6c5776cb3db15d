"""Decodes BMP: Pillow, OpenCV for run-length coding, which Pillow takes a step of Python for each run, and own code for
bit fields, of which Pillow knows only some.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.errors import UnsupportedImage
from app.imaging import resolution
from app.imaging.decoders.base import (
    MAX_METADATA_BYTES,
    Decoded,
    Size,
    broken_image,
    check_pixel_count,
    decode_with_pillow,
    open_with_pillow,
)

_PLAIN, _RUN_LENGTH, _BIT_FIELDS = 0, (1, 2), (3, 6)  # compression
_OS2_HEADER_BYTES, _V5_HEADER_BYTES = 64, 124
_OTHER_COMPRESSIONS = {4: "JPEG", 5: "PNG", 11: "CMYK", 12: "CMYK", 13: "CMYK"}
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
_STRIP_ROWS = 256


@dataclass(frozen=True, slots=True)
class _Header:
    """Size in pixels, whether the first row is the top one, bits per pixel, and BMP's number of the compression.

    `masks` are the bits of red, green, blue and alpha in a pixel; 0 for no alpha.
    """

    size: Size
    top_down: bool
    bits: int
    compression: int
    masks: tuple[int, ...] = ()


def read_size(data: bytes) -> Size:
    """Return (width, height) from the header. Raises UnsupportedImage."""
    return _read_header(data).size


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a BMP file. Raises TooManyPixels, UnsupportedImage, and whatever Pillow raises for a damaged file."""
    header = _read_header(data)
    check_pixel_count(*header.size, max_pixels)
    if header.masks:
        decoded = _decode_bit_fields(data, header)
    elif header.compression in _RUN_LENGTH:
        with open_with_pillow(data, "bmp", max_pixels) as image:
            decoded = _decode_run_lengths(data, image.size, gray=image.mode == "L")
    else:
        decoded = decode_with_pillow(data, "bmp", max_pixels)
    return replace(decoded, icc=_read_profile(data), resolution=resolution.read_bmp(data))


def _read_header(data: bytes) -> _Header:
    """Read the header. Raises UnsupportedImage, and struct.error if the file ends in it."""
    (length,) = struct.unpack_from("<I", data, 14)
    if length == 12:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
        compression = _PLAIN
    else:
        width, height, _, bits, compression = struct.unpack_from("<IiHHI", data, 18)
    is_os2 = length == _OS2_HEADER_BYTES and compression > max(_RUN_LENGTH)
    if is_os2 or compression not in (_PLAIN, *_RUN_LENGTH, *_BIT_FIELDS):
        name = "" if is_os2 else _OTHER_COMPRESSIONS.get(compression, "")
        raise UnsupportedImage(
            f"BMP with {name or f'this ({compression})'} compression is not supported; save it as PNG.", field="image"
        )
    if bits not in (1, 4, 8, 16, 24, 32):
        raise UnsupportedImage(f"BMP with {bits} bits per pixel is not supported; save it as PNG.", field="image")
    header = _Header((width, abs(height)), height < 0, bits, compression)
    return replace(header, masks=_read_masks(data, length, header)) if compression in _BIT_FIELDS else header


def _read_masks(data: bytes, length: int, header: _Header) -> tuple[int, ...]:
    """Return the bits of red, green, blue and alpha. Raises UnsupportedImage if they make no colors."""
    has_alpha = length >= 56 or header.compression == _BIT_FIELDS[1]
    masks = (*struct.unpack_from("<3I", data, 54), *(struct.unpack_from("<I", data, 66) if has_alpha else (0,)))
    if not any(masks):
        masks = _USUAL_MASKS
    everything = 0
    for mask in masks:
        lowest = mask & -mask
        if header.bits not in (16, 32) or mask & (mask + lowest) or mask & everything or mask >> header.bits:
            raise UnsupportedImage("BMP with these bit fields is not supported; save it as PNG.", field="image")
        everything |= mask
    if not all(masks[:3]):
        raise UnsupportedImage("BMP whose bit fields lack a color is not supported; save it as PNG.", field="image")
    return masks


def _decode_bit_fields(data: bytes, header: _Header) -> Decoded:
    """Decode pixels whose bits `header.masks` divides; more than 8 bits are rounded. Raises BrokenImage."""
    (begin,) = struct.unpack_from("<I", data, 10)
    width, height = header.size
    stride = (width * header.bits + 31) // 32 * 4
    if begin + stride * height > len(data):
        raise broken_image("bmp")
    rows = np.frombuffer(data, np.uint8, stride * height, begin).reshape(height, stride)
    if not header.top_down:
        rows = rows[::-1]
    masks = header.masks if header.masks[3] else header.masks[:3]
    samples = np.empty((height, width, len(masks)), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        strip = np.ascontiguousarray(rows[top : top + _STRIP_ROWS]).view(f"<u{header.bits // 8}")[:, :width]
        for channel, mask in enumerate(masks):
            samples[top : top + _STRIP_ROWS, :, channel] = _scale(strip, mask)
    deep = any(mask.bit_count() > 8 for mask in masks)
    return Decoded(samples, warnings=("depth=8",) if deep else ())


def _scale(pixels: NDArray[Any], mask: int) -> NDArray[np.uint8]:
    """Return the bits of `mask`, one run of them, scaled to 0 to 255."""
    shift, count = (mask & -mask).bit_length() - 1, mask.bit_count()
    values = (pixels & pixels.dtype.type(mask)) >> pixels.dtype.type(shift)
    if count > 16:
        values, count = values >> pixels.dtype.type(count - 16), 16
    table = np.rint(np.arange(1 << count) * (255 / ((1 << count) - 1))).astype(np.uint8)
    samples: NDArray[np.uint8] = table[values]
    return samples


def _decode_run_lengths(data: bytes, size: Size, *, gray: bool) -> Decoded:
    """Decode a file with a palette, of gray levels if `gray`. Raises BrokenImage."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is None or array.shape[1::-1] != size:
        raise broken_image("bmp")
    return Decoded(array[..., :1] if gray else array)


def _read_profile(data: bytes) -> bytes | None:
    """Return the color profile of a header of version 5: b"" if it is in another file or missing, None if not named."""
    if int.from_bytes(data[14:18], "little") < _V5_HEADER_BYTES or data[70:74] not in (b"DEBM", b"KNIL"):
        return None
    offset, size = struct.unpack_from("<II", data, 126)
    is_embedded = data[70:74] == b"DEBM" and size <= MAX_METADATA_BYTES
    return data[14 + offset : 14 + offset + size] if is_embedded else b""
