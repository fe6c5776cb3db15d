"""The directory of a TIFF: what decoders have to be told, and what they get wrong.

OpenCV and Pillow read a TIFF's size each in its own way; this reading comes first, and refuses what is ambiguous.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_DIRECTORIES = 64
_MAX_ENTRIES = 4096
_MAX_VALUES = 1 << 22
_KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """One page. `tags` maps a tag to (format character, count, offset of its values)."""

    order: str
    big: bool
    tags: dict[int, tuple[str, int, int]]
    width: int
    height: int
    depth: int
    samples: int
    orientation: int
    photometric: int
    planar: bool
    compression: int
    numbers: dict[int, tuple[int, ...]]

    @property
    def white_is_zero(self) -> bool:
        return self.photometric == 0

    @property
    def alpha(self) -> str:
        """`straight`, `premultiplied` or `none`."""
        return {1: "premultiplied", 2: "straight"}.get(self.numbers.get(0x0152, (0,))[0], "none")

    @property
    def two_deep(self) -> bool:
        """16-bit grey with alpha, which neither Pillow nor OpenCV reads."""
        return self.depth == 16 and self.samples == 2

    def unsupported(self) -> str | None:
        """Return what about this page is not taken, as a sentence, or None."""
        bits = self.numbers.get(0x0102, (1,))
        if len(set(bits)) > 1 or self.depth not in (1, 2, 4, 8, 16):
            return f"TIFF with {'/'.join(map(str, bits[:4]))} bits a sample is not taken."
        if any(kind not in (1, 4) for kind in self.numbers.get(0x0153, (1,))):
            return "TIFF with signed or floating-point samples is not taken."
        if self.big and self.order == ">" and self.depth != 16:
            return "BigTIFF in big-endian order is not taken."
        if self.depth == 16:
            if self.photometric not in (0, 1, 2, 5):
                return "TIFF of 16 bit is taken as grey, RGB or CMYK only."
            if self.planar and self.samples > 1:
                return "TIFF of 16 bit with one plane a colour is not taken."
            if self.samples not in {0: (1,), 1: (1, 2), 2: (3, 4), 5: (4,)}[self.photometric]:
                return f"TIFF with {self.samples} samples a pixel is not taken."
            if self.two_deep and (0x0142 in self.tags or self.compression not in (1, 8, 32946)):
                return "TIFF of 16-bit grey with alpha is taken in strips, uncompressed or deflated, only."
        return None

    def block(self, data: bytes, tag: int) -> bytes | None:
        """Return the bytes of a tag, or None where it is absent or unreasonably large."""
        kind, count, at = self.tags.get(tag, ("B", 0, 0))
        size = count * struct.calcsize(kind)
        if not 0 < size <= _MAX_BLOCK or at + size > len(data):
            return None
        return data[at : at + size]

    def without_orientation(self, data: bytes) -> bytes:
        """Return the file with orientation 1: OpenCV turns some orientations whatever it is told."""
        if self.orientation == 1:
            return data
        kind, _, at = self.tags[0x0112]
        patched = bytearray(data)
        struct.pack_into(self.order + kind, patched, at, 1)
        return bytes(patched)

    def two_samples(self, data: bytes) -> NDArray[Any]:
        """Return the samples of 16-bit grey with alpha, (height, width, 2)."""
        rows = min(self.numbers.get(0x0116, (self.height,))[0], self.height) or self.height
        offsets, lengths = self.numbers[0x0111], self.numbers[0x0117]
        result = np.empty((self.height, self.width, 2), np.uint16)
        if len(offsets) != len(lengths) or len(offsets) != -(-self.height // rows):
            raise ValueError("strips do not cover the picture")
        for number, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
            target = result[number * rows : (number + 1) * rows]
            packed = data[offset : offset + length]
            if self.compression != 1:
                packed = zlib.decompressobj().decompress(packed, target.nbytes)
            if len(packed) < target.nbytes:
                raise ValueError("a strip is too short")
            strip = np.frombuffer(packed[: target.nbytes], self.order + "u2").reshape(target.shape)
            if self.numbers.get(0x013D, (1,))[0] == 2:
                target[...] = np.cumsum(strip, axis=1, dtype=np.uint16)
            else:
                target[...] = strip
        if self.alpha == "none":
            return result[..., :1]
        if self.alpha == "premultiplied":
            raise ValueError("premultiplied grey")
        return result


def read_pages(data: bytes) -> list[TiffHeader]:
    """Return the first page of a TIFF and, where it has more, the second; thumbnails and masks are none.

    Raises ValueError or struct.error where the first is broken.
    """
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    pages: list[TiffHeader] = []
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MAX_DIRECTORIES and len(pages) < 2:
        seen.add(at)
        try:
            tags, at = _directory(data, order, big, at)
        except struct.error:
            if not pages:
                raise
            break
        numbers = {tag: _numbers(data, order, *tags[tag]) for tag in _READ if tag in tags}
        reduced = numbers.get(0x00FE, (0,))[0] & 5
        if not pages or not reduced:
            pages.append(_header(order, big, tags, numbers))
    return pages


_READ = (
    *(0x00FE, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0112, 0x0115, 0x0116, 0x0117, 0x011C),
    *(0x013D, 0x0152, 0x0153),
)


def _directory(data: bytes, order: str, big: bool, at: int) -> tuple[dict[int, tuple[str, int, int]], int]:
    """Return the tags of the directory at `at`, and where the next one is."""
    layout, inline, step = ("Q", 8, 20) if big else ("I", 4, 12)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    if count > _MAX_ENTRIES:
        raise ValueError("a directory has too many entries")
    tags: dict[int, tuple[str, int, int]] = {}
    for place in range(at, at + count * step, step):
        tag, kind, length = struct.unpack_from(order + "HH" + layout, data, place)
        character = _KINDS.get(kind)
        if character is None:
            continue
        if tag in tags:  # readers differ in which of two they believe
            raise ValueError("a tag stands twice")
        values = place + 4 + struct.calcsize(order + layout)
        if length * struct.calcsize(character) > inline:
            (values,) = struct.unpack_from(order + layout, data, values)
        tags[tag] = (character, length, values)
    (after,) = struct.unpack_from(order + layout, data, at + count * step)
    return tags, after


def _numbers(data: bytes, order: str, kind: str, count: int, at: int) -> tuple[int, ...]:
    if count > _MAX_VALUES:
        raise ValueError("a tag has too many values")
    return struct.unpack_from(f"{order}{count}{kind}", data, at) or (0,)


def _header(
    order: str, big: bool, tags: dict[int, tuple[str, int, int]], numbers: dict[int, tuple[int, ...]]
) -> TiffHeader:
    def first(tag: int, default: int) -> int:
        return numbers.get(tag, (default,))[0]

    orientation = first(0x0112, 1)
    return TiffHeader(
        order=order,
        big=big,
        tags=tags,
        width=first(0x0100, 0),
        height=first(0x0101, 0),
        depth=first(0x0102, 1),
        samples=first(0x0115, 1),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        photometric=first(0x0106, 1),
        planar=first(0x011C, 1) == 2,
        compression=first(0x0103, 1),
        numbers=numbers,
    )
