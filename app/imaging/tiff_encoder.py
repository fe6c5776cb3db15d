"""Encodes TIFF: deflated strips with the horizontal predictor, and metadata with the types that they had.

The file has the byte order of its EXIF, which is copied without being interpreted: maker notes and texts may depend on
it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging import resolution
from app.imaging.decoders.tiff_entries import Entry, make_directories, make_header, read_entries
from app.imaging.exif import DESCRIPTIVE_TAGS, EXIF_DIRECTORIES
from app.imaging.picture import Metadata

_STRIP_BYTES = 1 << 20
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _LAST_EXIF_KIND = 1, 3, 4, 5, 7, 13
_HEADER_BYTES = 8
_INTEROPERABILITY_IFD = 0xA005


def encode_tiff(samples: NDArray[Any], metadata: Metadata) -> bytes:
    """Return a TIFF of `samples`, uint8 or uint16, (height, width, 1 to 4), deflated, with the horizontal predictor."""
    height, width, count = samples.shape
    depth = samples.dtype.itemsize
    order = ">" if metadata.exif and metadata.exif[:1] == b"M" else "<"
    rows = max(_STRIP_BYTES // (width * count * depth), 1)
    strips = [zlib.compress(strip, 1) for strip in _predict(samples, rows, order)]
    own: dict[int, tuple[int, list[int]]] = {
        0x0100: (_LONG, [width]),
        0x0101: (_LONG, [height]),
        0x0102: (_SHORT, [depth * 8] * count),
        0x0103: (_SHORT, [8]),  # Adobe deflate
        0x0106: (_SHORT, [1 if count < 3 else 2]),
        0x0115: (_SHORT, [count]),
        0x0116: (_LONG, [rows]),
        0x0117: (_LONG, [len(strip) for strip in strips]),
        0x011C: (_SHORT, [1]),
        0x013D: (_SHORT, [2]),  # horizontal predictor
        0x0153: (_SHORT, [1] * count),
    }
    if count in (2, 4):
        own[0x0152] = _SHORT, [2]  # straight alpha
    if metadata.resolution:
        x, y = (resolution.to_rational(value) for value in metadata.resolution)
        own |= {0x011A: (_RATIONAL, [*x]), 0x011B: (_RATIONAL, [*y]), 0x0128: (_SHORT, [2])}  # per inch
    copied, inner = read_descriptive_entries(metadata.exif) if metadata.exif else ([], {})
    copied = [entry for entry in copied if entry[0] not in own]
    copied += [_pack(order, tag, kind, numbers) for tag, (kind, numbers) in own.items()]
    if metadata.xmp:
        copied.append((0x02BC, _BYTE, len(metadata.xmp), metadata.xmp))
    if metadata.icc:
        copied.append((0x8773, _UNDEFINED, len(metadata.icc), metadata.icc))

    def make(pixels_at: int) -> bytes:
        offsets = np.cumsum([pixels_at, *(len(strip) for strip in strips[:-1])]).tolist()
        return make_directories([*copied, _pack(order, 0x0111, _LONG, offsets)], inner, order, _HEADER_BYTES)

    directories = make(_HEADER_BYTES + len(make(0)))
    return b"".join([make_header(order, False, _HEADER_BYTES), directories, *strips])


def _pack(order: str, tag: int, kind: int, numbers: list[int]) -> Entry:
    character = "H" if kind == _SHORT else "I"
    count = len(numbers) // 2 if kind == _RATIONAL else len(numbers)
    return tag, kind, count, struct.pack(f"{order}{len(numbers)}{character}", *numbers)


def _predict(samples: NDArray[Any], rows: int, order: str) -> Iterator[bytes]:
    """Yield strips of `rows` rows as differences of each pixel to its left neighbor, in byte order `order`."""
    for top in range(0, samples.shape[0], rows):
        strip = samples[top : top + rows]
        differences = np.empty(strip.shape, f"{order}u{strip.dtype.itemsize}")
        differences[:, :1] = strip[:, :1]
        np.subtract(strip[:, 1:], strip[:, :-1], out=differences[:, 1:], casting="unsafe")
        yield differences.tobytes()


def read_descriptive_entries(exif: bytes) -> tuple[list[Entry], dict[int, list[Entry]]]:
    """Return the descriptive entries of an EXIF block, and those of the directories that it points to, by tag.

    Raises ValueError or struct.error if they are damaged or too large.
    """
    order = "<" if exif[:1] == b"I" else ">"

    def read(at: int, tags: tuple[int, ...] | None = None) -> list[Entry]:
        found = read_entries(exif, order, False, at, tags)
        return [entry for entry in found if entry[1] <= _LAST_EXIF_KIND and entry[0] != _INTEROPERABILITY_IFD]

    (first,) = struct.unpack_from(order + "I", exif, 4)
    inner = {}
    for tag, _, _, value in read(first, EXIF_DIRECTORIES):
        entries = read(struct.unpack_from(order + "I", value)[0])
        if entries:
            inner[tag] = entries
    return read(first, DESCRIPTIVE_TAGS), inner
