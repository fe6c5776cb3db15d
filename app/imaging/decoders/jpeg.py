"""Decodes JPEG: simplejpeg (libjpeg-turbo) for gray and RGB, Pillow for CMYK and for files with harmless defects.

A file may not cost more work than its size suggests: each scan is a pass over the whole picture, so pictures with many
scans are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from app.errors import UnsupportedImage
from app.imaging import resolution
from app.imaging.decoders.base import (
    MAX_PARTS,
    Decoded,
    Size,
    broken_image,
    check_pixel_count,
    open_with_pillow,
    read_samples,
)
from app.imaging.exif import XMP_PREFIX

_MANY_SCANS = 20
_MAX_SCANNED_PIXELS = 2 * 10**9
_SEARCH_BYTES = 1 << 20
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker in coded data, restart markers left out
_MAX_STRAY_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Header:
    """The segments before the first scan, which begins at byte `scan_start`.

    `frame` is the start-of-frame segment (marker, body), `metadata` the segments (marker, body) that only describe the
    picture, `stripped` the whole file without these, but for JFIF.
    """

    frame: tuple[int, bytes]
    metadata: list[tuple[int, bytes]]
    stripped: bytes
    scan_start: int

    @property
    def size(self) -> Size:
        """Width and height."""
        _, frame = self.frame
        return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")

    def find(self, marker: int, prefix: bytes) -> bytes | None:
        """Return the body, without `prefix`, of the first segment with this marker and prefix, or None."""
        return next(
            (body[len(prefix) :] for kind, body in self.metadata if kind == marker and body[: len(prefix)] == prefix),
            None,
        )

    @property
    def icc(self) -> bytes | None:
        """The color profile, joined from all its segments, or None."""
        prefix = b"ICC_PROFILE\0"
        parts = {
            body[12]: body[14:]
            for kind, body in self.metadata
            if kind == 0xE2 and body[:12] == prefix and len(body) > 14
        }
        return b"".join(parts[number] for number in sorted(parts)) or None


def read_size(data: bytes) -> Size:
    """Return (width, height) from the header."""
    return _read_header(data).size


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a JPEG file; of an MPO, the first picture.

    Raises TooManyPixels, BrokenImage, UnsupportedImage, and whatever libjpeg raises for a damaged file.
    """
    header = _read_header(data)
    marker, frame = header.frame
    width, height = header.size
    check_pixel_count(width, height, max_pixels)
    precision, components = frame[0], frame[5]
    if precision != 8 or marker not in (0xC0, 0xC1, 0xC2):
        raise UnsupportedImage(
            "This JPEG is lossless, arithmetic-coded or has more than 8 bits per sample, which is not supported; "
            "save it as a baseline or progressive JPEG, or as PNG.",
            field="image",
        )
    scans = _count_scans(data, header.scan_start)
    if scans > _MANY_SCANS and scans * width * height > _MAX_SCANNED_PIXELS:
        raise UnsupportedImage(f"This JPEG has {scans} scans, which is too many; re-save it.", field="image")
    warnings: tuple[str, ...] = ("mpo=first",) if header.find(0xE2, b"MPF\0") else ()
    icc = header.icc
    if components == 4:
        samples = read_samples(open_with_pillow(header.stripped, "jpeg", max_pixels), icc)
        icc = None
        warnings += ("color=srgb",)
    else:
        samples = _decode_gray_or_rgb(data, header.stripped, "GRAY" if components == 1 else "RGB", max_pixels)
    exif, xmp = header.find(0xE1, b"Exif\0\0"), header.find(0xE1, XMP_PREFIX)
    density = resolution.read_jfif(header.find(0xE0, b"JFIF\0"))
    return Decoded(samples, exif, icc, xmp, warnings, resolution=density)


def _read_header(data: bytes) -> _Header:
    """Read the segments up to the first scan. Raises BrokenImage, IndexError, ValueError if there is no scan."""
    at, frame, metadata, stripped = 2, None, [], [data[:2]]
    for _ in range(MAX_PARTS):
        start = at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9 or (marker == 0xDA and frame is None):
            break
        if marker == 0xDA and frame is not None:
            return _Header(frame, metadata, b"".join([*stripped, data[start:]]), start)
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None or len(body) < 6:
                raise broken_image("jpeg")
            frame = (marker, body)
        if marker in (0xE0, 0xE1, 0xE2, 0xED, 0xFE):
            metadata.append((marker, body))
        if marker not in (0xE1, 0xE2, 0xED, 0xFE):
            stripped.append(data[start:at])
    raise broken_image("jpeg")


def _count_scans(data: bytes, at: int) -> int:
    """Return the number of scans from byte `at` to the end of the picture; phones may append a video after it.

    Raises BrokenImage for more markers than a picture can have.
    """
    scans = 0
    for _ in range(MAX_PARTS):
        # In pieces: a search holds the interpreter's lock.
        while (match := _MARKER.search(data, at, at + _SEARCH_BYTES + 1)) is None:
            at += _SEARCH_BYTES
            if at >= len(data):
                return scans
        at = match.end()
        marker = data[at - 1]
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        if marker >= 0xC0:
            at += int.from_bytes(data[at : at + 2], "big")
    raise broken_image("jpeg")


def _decode_gray_or_rgb(data: bytes, stripped: bytes, colorspace: str, max_pixels: int) -> NDArray[Any]:
    """Return the samples, uint8 (height, width, 1 or 3); `stripped` is the same file without metadata segments."""
    try:
        samples: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace)
        return samples
    except ValueError as error:
        # Stray bytes between segments and odd but harmless parameters are common in good files; the rest is damage.
        words = str(error).split()
        harmless = "extraneous" in words and (
            int(words[words.index("extraneous") - 1]) <= _MAX_STRAY_BYTES or _is_in_header(words)
        )
        if not harmless and "SOS" not in words:
            raise
        return read_samples(open_with_pillow(stripped, "jpeg", max_pixels))


def _is_in_header(words: list[str]) -> bool:
    """Tell whether libjpeg's warning, as words, is about stray bytes before a segment that is not coded data."""
    return words[-1].startswith("0xe") or words[-1] in ("0xfe", "0xdb", "0xc4", "0xc0", "0xc2")
