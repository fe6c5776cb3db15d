"""Decodes PNG: Pillow up to 8 bits per sample and for 16-bit gray, OpenCV for other 16-bit pictures."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging import resolution
from app.imaging.color_encoding import ColorEncoding, from_code_points, from_gamma
from app.imaging.decoders.base import (
    MAX_METADATA_BYTES,
    MAX_PARTS,
    Decoded,
    Size,
    animated_image,
    broken_image,
    check_pixel_count,
    decode_16_bit,
    open_with_pillow,
    read_samples,
)

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Header:
    """IHDR: size in pixels, bits per sample, PNG's color type (0, 2, 3, 4 or 6), and whether it has seven passes."""

    width: int
    height: int
    depth: int
    color_type: int
    interlaced: bool


def read_size(data: bytes) -> Size:
    """Return (width, height) from the header. Raises BrokenImage."""
    header = _read_header(data)
    return header.width, header.height


def decode(data: bytes, max_pixels: int) -> Decoded:
    """Decode a PNG file.

    Raises TooManyPixels, AnimatedImage, BrokenImage, and whatever the libraries raise for a damaged file.
    """
    header = _read_header(data)
    check_pixel_count(header.width, header.height, max_pixels)
    stripped = [data[:8]]
    icc = exif = xmp = density = None
    seen_icc = seen_xmp = False
    trns = b""
    named: dict[bytes, bytes] = {}
    for kind, content, chunk in _read_chunks(data):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            stripped.append(chunk)
        if kind == b"acTL" and int.from_bytes(content[:4], "big") > 1:
            raise animated_image("png", int.from_bytes(content[:4], "big"))
        if kind == b"tRNS":
            trns = content
        elif kind == b"iCCP" and not seen_icc:
            seen_icc = True
            icc = _inflate_profile(content.partition(b"\0")[2][1:])
        elif kind == b"eXIf":
            exif = content
        elif kind in (b"cICP", b"sRGB", b"gAMA", b"cHRM"):
            named.setdefault(kind, content)
        elif kind == b"pHYs":
            density = resolution.read_phys(content)
        elif kind == b"iTXt" and not seen_xmp and content.startswith(b"XML:com.adobe.xmp\0"):
            seen_xmp = True
            xmp = _read_itxt(content)
    # The libraries get only the chunks that make pixels: no gamma to apply, no text to inflate, no frames.
    samples = _decode_samples(b"".join(stripped), header, max_pixels)
    if header.color_type in (_GRAY, _RGB) and trns:
        samples = _add_transparent_color(samples, header, trns)
    encoding, warnings = _read_encoding(named, icc is not None)
    if encoding and not encoding.is_srgb:
        icc = None  # only `cICP` takes precedence over a profile
    return Decoded(samples, exif, icc, xmp, warnings, resolution=density, encoding=encoding)


def _read_encoding(named: dict[bytes, bytes], has_profile: bool) -> tuple[ColorEncoding | None, tuple[str, ...]]:
    """Return the encoding that chunks name, by type, in the specification's order of precedence, and warnings."""
    if b"cICP" in named:
        primaries, transfer, matrix, full_range = named[b"cICP"][:4].ljust(4, b"\0")
        encoding = from_code_points(primaries, transfer) if matrix == 0 and full_range == 1 else None
        return encoding, () if encoding else ("color=ignored",)
    gamma = int.from_bytes(named.get(b"gAMA", b"")[:4], "big") / 100_000
    if has_profile or b"sRGB" in named or not 0.1 <= gamma <= 10:
        return None, ()
    numbers = struct.unpack_from(">8I", named.get(b"cHRM", b"").ljust(32, b"\0"))
    white, red, green, blue = ((numbers[i] / 100_000, numbers[i + 1] / 100_000) for i in range(0, 8, 2))
    return from_gamma(1 / gamma, (red, green, blue, white)), ()


def _read_header(data: bytes) -> _Header:
    if data[12:16] != b"IHDR":
        raise broken_image("png")
    width, height, depth, color_type, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    return _Header(width, height, depth, color_type, bool(interlace))


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (type, content, whole chunk) up to IEND. Raises BrokenImage if the file ends before it."""
    at = 8
    for _ in range(MAX_PARTS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise broken_image("png")
        yield kind, data[at + 8 : end - 4], data[at:end]
        if kind == b"IEND":
            return
        at = end
    raise broken_image("png")


def _inflate(packed: bytes) -> bytes | None:
    """Return an inflated metadata block, or None if it is broken or larger than MAX_METADATA_BYTES."""
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(packed, MAX_METADATA_BYTES)
    except zlib.error:
        return None
    return content if decompressor.eof else None


def _inflate_profile(content: bytes) -> bytes:
    """Return an inflated color profile, or what can be inflated of it: it gives its own size.

    The checksum at its end, which some encoders leave out, is not read.
    """
    decompressor = zlib.decompressobj(-15)
    try:
        return decompressor.decompress(content[2:], MAX_METADATA_BYTES)
    except zlib.error:
        return b""


def _read_itxt(content: bytes) -> bytes | None:
    """Return the text of an iTXt chunk, or None if it is compressed and broken."""
    _, _, rest = content.partition(b"\0")
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[-1]
    return _inflate(text) if compressed else text


def _decode_samples(data: bytes, header: _Header, max_pixels: int) -> NDArray[Any]:
    """Return the samples, uint8 or uint16 (height, width, 1 to 4), of a file without metadata.

    Raises BrokenImage if rows are missing.
    """
    if header.depth == 16 and header.color_type != _GRAY:
        return decode_16_bit(data, "png", {_RGB: 3, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}[header.color_type])
    image = open_with_pillow(data, "png", max_pixels)
    # Pillow leaves rows that the file does not have black, and a black row is rare enough to look twice.
    last_row = image.crop((0, header.height - 1, header.width, header.height))
    if (header.interlaced or not np.asarray(last_row).any()) and not _has_all_rows(header, data):
        raise broken_image("png")
    if header.depth == 16:
        return np.asarray(image).astype(np.uint16)[..., None]
    if header.color_type == _GRAY:
        image.info.pop("transparency", None)
    return read_samples(image)


def _has_all_rows(header: _Header, data: bytes) -> bool:
    """Tell whether the inflated pixel data is as long as the header says."""
    missing = _count_bytes(header)
    decompressor = zlib.decompressobj()
    for kind, packed, _ in _read_chunks(data):
        while kind == b"IDAT" and packed and missing > 0 and not decompressor.eof:
            missing -= len(decompressor.decompress(packed, _INFLATE_BYTES))
            packed = decompressor.unconsumed_tail
    return missing <= 0


def _count_bytes(header: _Header) -> int:
    """Return the length of the inflated pixel data: a byte for the filter before each row of each pass."""
    bits = header.depth * {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}[header.color_type]
    total = 0
    for left, top, across, down in _PASSES if header.interlaced else ((0, 0, 1, 1),):
        width, height = -(-(header.width - left) // across), -(-(header.height - top) // down)
        if width > 0:
            total += max(height, 0) * (1 + (width * bits + 7) // 8)
    return total


def _add_transparent_color(samples: NDArray[Any], header: _Header, trns: bytes) -> NDArray[Any]:
    """Return samples with the alpha channel that tRNS gives: one color is fully transparent, all others opaque."""
    count = 1 if header.color_type == _GRAY else 3
    colors = samples[..., :count]
    if len(trns) < 2 * count:
        return colors
    highest = (1 << header.depth) - 1
    key = np.frombuffer(trns[: 2 * count], ">u2").astype(np.uint32) & highest  # the bits above are not used
    if header.depth < 8:
        key = key * 255 // highest
    white = np.iinfo(samples.dtype).max
    alpha = np.where((colors == key).all(axis=2, keepdims=True), 0, white).astype(samples.dtype)
    return np.concatenate([colors, alpha], axis=2)
