"""Decodes GIF of one frame, with Pillow, which gets that frame alone: no comments, no loops, no other sizes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from app.errors import AnimatedImage
from app.imaging.decoders.base import MAX_PARTS, Decoded, Size, check_pixel_count, open_with_pillow, read_samples

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _APPLICATION = 0xF9, 0xFF
_XMP_TRAILER = 257  # bytes after the packet that lead a reader of blocks to the end


@dataclass(frozen=True, slots=True)
class _Frame:
    """The first frame: its place on the screen, and a file of it alone. `metadata` are application extensions."""

    screen: Size
    left: int
    top: int
    width: int
    height: int
    stripped: bytes
    metadata: dict[bytes, bytes]

    @property
    def size(self) -> Size:
        """Size of the screen, grown to hold the frame, as browsers do."""
        return max(self.screen[0], self.left + self.width), max(self.screen[1], self.top + self.height)


def read_size(data: bytes) -> Size:
    """Return (width, height) of the screen or of what the frame needs, if that is more."""
    return _read_frame(data).size


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a GIF file; what the frame leaves free of the screen is transparent.

    Raises TooManyPixels, AnimatedImage for several frames, and whatever Pillow raises for a damaged file.
    """
    frame = _read_frame(data)
    check_pixel_count(*frame.size, max_pixels)
    image = open_with_pillow(frame.stripped, "gif", max_pixels)
    image.load()
    if image.mode == "L" and "transparency" in image.info:
        image = image.convert("LA")
    samples = read_samples(image)
    width, height = frame.size
    if samples.shape[:2] != (height, width):
        channels = samples.shape[2] - 1 if samples.shape[2] in (2, 4) else samples.shape[2]
        canvas = np.zeros((height, width, channels + 1), np.uint8)
        place = canvas[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
        place[..., channels] = 255
        place[..., : samples.shape[2]] = samples
        samples = canvas
    return Decoded(samples, icc=frame.metadata.get(b"ICCRGBG1012"), xmp=frame.metadata.get(b"XMP DataXMP"))


def _read_frame(data: bytes) -> _Frame:
    """Return the first frame. Raises AnimatedImage if there is another, ValueError or IndexError if there is none."""
    screen = struct.unpack_from("<HH", data, 6)
    at = 13 + _palette_size(data[10])
    head, control, frame, metadata = data[:at], b"", None, {}
    parts_left = MAX_PARTS
    while parts_left > 0 and not (at >= len(data) and frame):  # some writers leave out the end
        kind = data[at]
        if kind == _TRAILER:
            break
        if kind == _IMAGE and frame:
            raise AnimatedImage("The gif file has several frames; send a single picture.", field="image")
        if kind == _IMAGE:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            colors = at + 10
            begin = colors + _palette_size(flags) + 1
        elif kind == _EXTENSION:
            begin = at + 2
        else:
            raise ValueError("no block of a GIF")
        parts, end = _read_parts(data, begin, parts_left)
        parts_left -= len(parts) + 1
        if kind == _IMAGE:
            descriptor = struct.pack("<BHHHHB", _IMAGE, 0, 0, width, height, flags)
            stripped = [b"GIF89a", struct.pack("<HH", width, height), head[10:], control, descriptor]
            frame = (left, top, width, height, b"".join([*stripped, data[colors:end], b";"]))
        elif data[at + 1] == _GRAPHIC_CONTROL and frame is None:
            control = data[at:end]
        elif data[at + 1] == _APPLICATION and parts:
            # XMP lies in it as it is, before bytes that lead a reader of parts to the end.
            is_xmp = parts[0] == b"XMP DataXMP"
            metadata[parts[0]] = data[begin + 12 : end - 1 - _XMP_TRAILER] if is_xmp else b"".join(parts[1:])
        at = end
    if frame is None:
        raise ValueError("no frame")
    return _Frame((screen[0], screen[1]), *frame, metadata)


def _palette_size(flags: int) -> int:
    """Return the bytes of the palette that flags of the screen or of a frame announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _read_parts(data: bytes, at: int, limit: int) -> tuple[list[bytes], int]:
    """Return the parts of the block of data at byte `at`, and where it ends: at its end mark, or with the file.

    Raises ValueError for more than `limit` parts.
    """
    parts = []
    while at < len(data) and data[at]:
        parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
        if len(parts) > limit:
            raise ValueError("too many parts")
    return parts, at + 1
