"""Decodes JPEG: simplejpeg (libjpeg-turbo), and Pillow for files with harmless defects.

simplejpeg refuses a file for any warning of libjpeg, also for one that says nothing about the pixels. Such a file is
tried again without what causes these: metadata, odd values in the JFIF and Adobe segments, bytes before the end marker.

A file may not cost more work than its size suggests: each scan is a pass over the whole picture, so pictures with many
scans are refused, and so are those with less coded data than their size needs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

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
from app.imaging.xmp import XMP_PREFIX

_MANY_SCANS = 20
_MAX_SCANNED_PIXELS = 2 * 10**9
_SEARCH_BYTES = 1 << 20
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker in coded data, restart markers left out
_FILL = re.compile(rb"\xff+")  # any number of these bytes may precede a marker
_MAX_PIXELS_PER_BIT = 256  # a block of coefficients takes a bit at least, and belongs to at most so many pixels
_MAX_STRAY_BYTES = 8
_MAX_CUTS = 3
_STRAY_BEFORE_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_ICC_PREFIX = b"ICC_PROFILE\0"
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"  # revision 1.01, no density, no thumbnail
_ADOBE_BYTES = 12


@dataclass(frozen=True, slots=True)
class _Header:
    """The segments (marker, body) before the first scan, which begins at byte `scan_start`.

    `frame` is the body of the start-of-frame segment `frame_marker`.
    """

    frame_marker: int
    frame: bytes
    segments: list[tuple[int, bytes]]
    scan_start: int

    @property
    def size(self) -> Size:
        """Width and height."""
        return int.from_bytes(self.frame[3:5], "big"), int.from_bytes(self.frame[1:3], "big")

    @property
    def components(self) -> int:
        """1 (gray), 3 (color) or 4 (CMYK)."""
        return self.frame[5]

    @property
    def has_whole_sampling_ratios(self) -> bool:
        """Whether each component's resolution is that of the picture divided by whole numbers."""
        factors = [(byte >> 4, byte & 15) for byte in self.frame[7 : 6 + 3 * self.components : 3]]
        highest = [max(column) for column in zip(*factors, strict=True)]
        return all(top % one == 0 for pair in factors for top, one in zip(highest, pair, strict=True) if one)

    @property
    def plain(self) -> bytes:
        """The segments without metadata, and with common values in the JFIF and Adobe segments."""
        parts = [b"\xff\xd8"]
        for marker, body in self.segments:
            if marker == 0xE0 and body.startswith(b"JFIF\0"):
                parts.append(_make_segment(marker, _JFIF))
            elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= _ADOBE_BYTES:
                # Anything else is read as YCbCr or YCCK, with a warning.
                usual = 2 if self.components == 4 else 1
                transform = body[11] if body[11] in (0, usual) else usual
                parts.append(_make_segment(marker, body[:11] + bytes((transform,))))
            elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                parts.append(_make_segment(marker, body))
        return b"".join(parts)

    def find(self, marker: int, prefix: bytes) -> bytes | None:
        """Return the body, without `prefix`, of the first segment with this marker and prefix, or None."""
        return next(
            (body[len(prefix) :] for kind, body in self.segments if kind == marker and body[: len(prefix)] == prefix),
            None,
        )

    @property
    def icc(self) -> bytes | None:
        """The color profile, joined from all its segments: b"" if they are empty, None if there are none.

        Encoders number parts from 1 or from 0, or leave numbers out; whether a part is missing is told by the size in
        the profile itself.
        """
        bodies = [body for kind, body in self.segments if kind == 0xE2 and body.startswith(_ICC_PREFIX)]
        parts = list(dict.fromkeys((body[12], body[14:]) for body in bodies if len(body) > 14))
        profile = b"".join(part for _, part in sorted(parts, key=lambda part: part[0]))
        if len({number for number, _ in parts}) < len(parts):  # two profiles, perhaps: the first
            profile = profile[: int.from_bytes(profile[:4], "big")]
        return profile if bodies else None


def read_size(data: bytes) -> Size:
    """Return (width, height) from the header."""
    return _read_header(data).size


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a JPEG file; of an MPO, the first picture.

    Raises TooManyPixels, BrokenImage, UnsupportedImage, and whatever libjpeg raises for a damaged file.
    """
    header = _read_header(data)
    width, height = header.size
    components = header.components
    check_pixel_count(width, height, max_pixels)
    if header.frame[0] != 8 or header.frame_marker not in (0xC0, 0xC1, 0xC2):
        raise UnsupportedImage(
            "This JPEG is lossless, arithmetic-coded or has more than 8 bits per sample, which is not supported; "
            "save it as a baseline or progressive JPEG, or as PNG.",
            field="image",
        )
    if components not in (1, 3, 4):
        raise UnsupportedImage(f"JPEG with {components} components is not supported; save it as RGB.", field="image")
    if not header.has_whole_sampling_ratios:
        raise UnsupportedImage(
            "This JPEG stores its colors at a fraction of the resolution that is not a whole number, which is not "
            "supported; save it with 4:4:4 or 4:2:0 sampling.",
            field="image",
        )
    scans, end = _find_end(data, header.scan_start)
    if scans > _MANY_SCANS and scans * width * height > _MAX_SCANNED_PIXELS:
        raise UnsupportedImage(f"This JPEG has {scans} scans, which is too many; re-save it.", field="image")
    if 8 * (end - header.scan_start) * _MAX_PIXELS_PER_BIT < width * height:
        raise broken_image("jpeg")
    warnings: tuple[str, ...] = ("mpo=first",) if header.find(0xE2, b"MPF\0") else ()
    icc = header.icc
    samples = _decode_samples(data, header, end, scans, max_pixels)
    if components == 4:
        samples = read_samples(Image.frombuffer("CMYK", (width, height), samples, "raw", "CMYK", 0, 1), icc)
        icc = None
        warnings += ("color=srgb",)
    exif, xmp = header.find(0xE1, b"Exif\0\0"), header.find(0xE1, XMP_PREFIX)
    density = resolution.read_jfif(header.find(0xE0, b"JFIF\0"))
    return Decoded(samples, exif, icc, xmp, warnings, resolution=density)


def _read_header(data: bytes) -> _Header:
    """Read the segments up to the first scan. Raises BrokenImage, IndexError, ValueError if there is no scan."""
    at, marker, frame, segments = 2, 0, None, []
    for _ in range(MAX_PARTS):
        fill = _FILL.search(data, at)
        if fill is None:
            break
        start, at = fill.span()
        kind = data[at]
        at += 1
        if kind in (0x00, 0x01) or 0xD0 <= kind <= 0xD8:
            continue
        if kind == 0xD9 or (kind == 0xDA and frame is None):
            break
        if kind == 0xDA and frame is not None:
            return _Header(marker, frame, segments, start)
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += length
        segments.append((kind, body))
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            if frame is not None or len(body) < 6:
                raise broken_image("jpeg")
            if body[1:3] == b"\0\0":
                raise UnsupportedImage(
                    "This JPEG gives its height only after the picture (DNL), which is not supported; re-save it.",
                    field="image",
                )
            marker, frame = kind, body
    raise broken_image("jpeg")


def _make_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _find_end(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of scans from byte `at` on, and where the picture ends; phones may append a video after it.

    Raises BrokenImage for more markers than a picture can have.
    """
    scans = 0
    for _ in range(MAX_PARTS):
        # In pieces: a search holds the interpreter's lock.
        while (match := _MARKER.search(data, at, at + _SEARCH_BYTES + 1)) is None:
            at += _SEARCH_BYTES
            if at >= len(data):
                return scans, len(data)
        at = match.end()
        marker = data[at - 1]
        if marker == 0xD9:
            return scans, match.start()
        scans += marker == 0xDA
        if marker >= 0xC0:
            at += int.from_bytes(data[at : at + 2], "big")
    raise broken_image("jpeg")


def _decode_samples(data: bytes, header: _Header, end: int, scans: int, max_pixels: int) -> NDArray[Any]:
    """Return the samples, uint8 (height, width, 1, 3 or 4 for CMYK), of a file whose end marker is at byte `end`."""
    colorspace = {1: "GRAY", 3: "RGB", 4: "CMYK"}[header.components]
    coded, tail = data[header.scan_start : end], data[end : end + 2]
    warning = _try_simplejpeg(data, colorspace)
    for _ in range(_MAX_CUTS if scans <= _MANY_SCANS else 0):
        if not isinstance(warning, str):
            return warning
        stray = _STRAY_BEFORE_END.search(warning)
        if stray:
            coded = coded[: max(len(coded) - int(stray[1]), 0)]
        warning = _try_simplejpeg(b"".join([header.plain, coded, tail]), colorspace)
    if not isinstance(warning, str):
        return warning
    # Stray bytes between segments and odd but harmless parameters are common in good files; the rest is damage.
    words = warning.split()
    harmless = "extraneous" in words and (
        int(words[words.index("extraneous") - 1]) <= _MAX_STRAY_BYTES or _is_in_header(words)
    )
    if not harmless and "SOS" not in words and "subsampling" not in words:
        raise broken_image("jpeg")
    image = open_with_pillow(b"".join([header.plain, coded, tail]), "jpeg", max_pixels)
    return np.asarray(image) if image.mode == "CMYK" else read_samples(image)


def _try_simplejpeg(data: bytes, colorspace: str) -> NDArray[Any] | str:
    """Return the samples, uint8 (height, width, 1, 3 or 4 for CMYK), or the last warning of libjpeg."""
    try:
        samples: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace)
        return 255 - samples if colorspace == "CMYK" else samples  # files store CMYK inverted, as Photoshop does
    except ValueError as error:
        return str(error)


def _is_in_header(words: list[str]) -> bool:
    """Tell whether libjpeg's warning, as words, is about stray bytes before a segment that is not coded data."""
    return words[-1].startswith("0xe") or words[-1] in ("0xfe", "0xdb", "0xc4", "0xc0", "0xc2")
