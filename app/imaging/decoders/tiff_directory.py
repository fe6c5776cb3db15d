"""Reads the directories (pages and tags) of a TIFF before a library does.

OpenCV and Pillow may read different sizes from the same TIFF, so an ambiguous file is refused here first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging.decoders.base import MAX_METADATA_BYTES
from app.imaging.exif import DESCRIPTIVE_TAGS

_MAX_DIRECTORIES = 64
_MAX_ENTRIES = 4096
"""Entries of all directories together."""
_MAX_NUMBERS = 16
"""Values of a tag that are read with the directory; lists of strips and tiles are read when they are needed."""
_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 0x00FE, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 0x0111, 0x0112, 0x0115, 0x0116, 0x0117
_SUB_DIRECTORIES, _DNG_VERSION = 0x014A, 0xC612
_PLANAR, _PREDICTOR, _TILE_WIDTH, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 0x011C, 0x013D, 0x0142, 0x0152, 0x0153
_NUMERIC_TAGS = (
    *(_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES),
    *(_ROWS_PER_STRIP, _PLANAR, _PREDICTOR, _EXTRA_SAMPLES, _SAMPLE_FORMAT),
)

LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions whose bytes are samples: none, LZW, deflate, PackBits, deflate, LZMA, ZSTD."""
_OTHER_COMPRESSIONS = (2, 3, 4, 6, 7)
"""Fax of three kinds, JPEG of two."""
_UNREADABLE_COMPRESSIONS = {
    **{34661: "JBIG", 34887: "LERC", 34892: "lossy JPEG", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"},
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((34676, 34677), "SGI Log"),
}
_PHOTOMETRICS = (0, 1, 2, 3, 5, 6, 8)
"""White is 0, black is 0, RGB, palette, CMYK, YCbCr, CIELAB."""
_YCBCR = 6
_MAX_SAMPLES = 6
_ALPHAS = {1: "premultiplied", 2: "straight"}
_REPEATABLE = frozenset(DESCRIPTIVE_TAGS) - {_ORIENTATION}

_Tags = dict[int, tuple[str, int, int]]


@dataclass(frozen=True, slots=True)
class TiffPage:
    """One page (image file directory).

    `order` is `<` or `>` for little- or big-endian, `big` whether it is BigTIFF, `at` the byte of its directory. `tags`
    maps a tag to (format character, count, offset of its values), `numbers` the tags in _NUMERIC_TAGS to their first
    values. `depth` is bits
    per sample, `samples` the samples per pixel; `photometric`, `compression` and `orientation` are TIFF's values.
    """

    order: str
    big: bool
    at: int
    tags: _Tags
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
    def rows_per_strip(self) -> int:
        """Rows of each strip but the last: at least 1, and the height of the picture if the file does not say."""
        return self.numbers.get(_ROWS_PER_STRIP, (0,))[0] or self.height

    @property
    def white_is_zero(self) -> bool:
        """Whether 0 is white."""
        return self.photometric == 0

    @property
    def colors(self) -> int:
        """Samples per pixel that make its color; the others are extra samples."""
        return {0: 1, 1: 1, 3: 1, 5: 4}.get(self.photometric, 3)

    @property
    def alpha(self) -> str:
        """`straight`, `premultiplied` or `none`."""
        return _ALPHAS[self.numbers[_EXTRA_SAMPLES][self._alpha_number]] if self._alpha_number >= 0 else "none"

    @property
    def alpha_index(self) -> int:
        """The sample that is alpha, -1 if there is none."""
        return self.colors + self._alpha_number if self._alpha_number >= 0 else -1

    @property
    def _alpha_number(self) -> int:
        """Which extra sample is alpha, -1 if none is."""
        kinds = self.numbers.get(_EXTRA_SAMPLES, ())[: max(self.samples - self.colors, 0)]
        return next((number for number, kind in enumerate(kinds) if kind in _ALPHAS), -1)

    @property
    def is_own(self) -> bool:
        """Whether `tiff_samples` must read it, because libraries do not, or wrong."""
        extra = self.samples - self.colors
        if self.compression not in LOSSLESS or self.depth not in (8, 16) or self.photometric not in (0, 1, 2, 5):
            return False
        if self.depth == 16:
            unknown_to_opencv = self.photometric != 5 and self.compression in (34925, 50000)
            return (self.planar and self.samples > 1) or extra > (self.photometric == 2) or unknown_to_opencv
        return (
            (self.planar and (extra > 0 or (self.compression == 1 and self.samples > 1)))
            or extra > {0: 0, 1: 1, 2: 1, 5: self.alpha == "none"}[self.photometric]
            or (self.big and self.order == ">")
        )

    def why_unsupported(self) -> str | None:
        """Return why this page cannot be decoded, as a sentence, or None."""
        is_reduced = self.numbers.get(_SUBFILE_TYPE, (0,))[0] & 1
        if _DNG_VERSION in self.tags or (is_reduced and _SUB_DIRECTORIES in self.tags):
            return "This is a camera RAW file, which is not supported: develop it first."
        bits = self.numbers.get(_BITS, (1,))
        if len(set(bits)) > 1 or self.depth not in (1, 2, 4, 8, 16):
            return f"TIFF with {'/'.join(map(str, bits[:4]))} bits per sample is not supported."
        if any(kind not in (1, 4) for kind in self.numbers.get(_SAMPLE_FORMAT, (1,))):
            return "TIFF with signed or floating-point samples is not supported."
        if self.compression not in LOSSLESS and self.compression not in _OTHER_COMPRESSIONS:
            name = _UNREADABLE_COMPRESSIONS.get(self.compression, str(self.compression))
            return f"TIFF with {name} compression is not supported."
        if self.photometric not in _PHOTOMETRICS:
            return f"TIFF with photometric interpretation {self.photometric} is not supported."
        if self.samples < self.colors or (self.samples > self.colors and not self._may_have_extra_samples):
            return f"TIFF with {self.samples} samples of {self.depth} bits per pixel is not supported."
        if self.big and self.order == ">" and self.depth != 16 and not self.is_own:
            return "Big-endian BigTIFF is supported with 8 or 16 bits per sample and lossless compression only."
        if self.photometric == _YCBCR and self.planar:
            return "TIFF with one plane per color is not supported as YCbCr."
        if self.depth == 16 and self.photometric not in (0, 1, 2, 5):
            return "16-bit TIFF is supported as gray, RGB or CMYK only."
        if self.depth == 16 and self.compression not in LOSSLESS:
            return "16-bit TIFF is supported with lossless compression only."
        return None

    @property
    def _may_have_extra_samples(self) -> bool:
        return self.depth >= 8 and self.photometric in (0, 1, 2, 5) and self.samples <= _MAX_SAMPLES

    def read_bytes(self, data: bytes, tag: int) -> bytes | None:
        """Return the bytes of a tag, or None if it is absent or larger than MAX_METADATA_BYTES."""
        kind, count, at = self.tags.get(tag, ("B", 0, 0))
        size = count * struct.calcsize(kind)
        if not 0 < size <= MAX_METADATA_BYTES or at + size > len(data):
            return None
        return data[at : at + size]

    def read_numbers(self, data: bytes, tag: int) -> NDArray[Any]:
        """Return the values of a tag of integers, or none. Raises ValueError if they end behind the file."""
        kind, count, at = self.tags.get(tag, ("B", 0, 0))
        return np.frombuffer(data, np.dtype(self.order + kind), count, at) if count else np.empty(0, np.uint32)


def read_pages(data: bytes) -> list[TiffPage]:
    """Return the first page of a TIFF and the second if there is one; thumbnails and masks do not count as pages.

    Raises ValueError or struct.error if the first page is broken.
    """
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    pages: list[TiffPage] = []
    seen: set[int] = set()
    entries = 0
    while at and at not in seen and len(seen) < _MAX_DIRECTORIES and len(pages) < 2:
        seen.add(at)
        here = at
        try:
            tags, at = _read_directory(data, order, big, here, _MAX_ENTRIES - entries)
        except struct.error:
            if not pages:
                raise
            break
        entries += len(tags)
        numbers = {tag: _read_numbers(data, order, *tags[tag]) for tag in _NUMERIC_TAGS if tag in tags}
        is_reduced_or_mask = numbers.get(_SUBFILE_TYPE, (0,))[0] & 5
        if not pages or not is_reduced_or_mask:
            pages.append(_make_page(order, big, here, tags, numbers))
    return pages


def _read_directory(data: bytes, order: str, big: bool, at: int, most: int) -> tuple[_Tags, int]:
    """Return the tags of the directory at offset `at`, and the offset of the next directory (0: none).

    Raises ValueError for more than `most` entries.
    """
    layout, inline, step = ("Q", 8, 20) if big else ("I", 4, 12)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    if count > most:
        raise ValueError("the directories have too many entries")
    tags: _Tags = {}
    for entry in range(at, at + count * step, step):
        tag, kind, length = struct.unpack_from(order + "HH" + layout, data, entry)
        character = _FORMATS.get(kind)
        if character is None:
            continue
        if tag in tags and tag in _REPEATABLE:  # tifffile writes two descriptions
            continue
        if tag in tags:  # readers differ in which of the two they use
            raise ValueError("a tag occurs twice")
        values = entry + 4 + struct.calcsize(order + layout)
        if length * struct.calcsize(character) > inline:
            (values,) = struct.unpack_from(order + layout, data, values)
        tags[tag] = (character, length, values)
    (next_directory,) = struct.unpack_from(order + layout, data, at + count * step)
    return tags, next_directory


def _read_numbers(data: bytes, order: str, kind: str, count: int, at: int) -> tuple[int, ...]:
    """Return the first values of a tag. Raises struct.error if they lie outside the file."""
    return struct.unpack_from(f"{order}{min(count, _MAX_NUMBERS)}{kind}", data, at) or (0,)


def _make_page(order: str, big: bool, at: int, tags: _Tags, numbers: dict[int, tuple[int, ...]]) -> TiffPage:
    def first(tag: int, default: int) -> int:
        return numbers.get(tag, (default,))[0]

    orientation, photometric = first(_ORIENTATION, 1), first(_PHOTOMETRIC, 1)
    is_jpeg = first(_COMPRESSION, 1) in (6, 7)
    return TiffPage(
        order=order,
        big=big,
        at=at,
        tags=tags,
        width=first(_WIDTH, 0),
        height=first(_HEIGHT, 0),
        depth=first(_BITS, 1),
        samples=first(_SAMPLES, 3 if is_jpeg and photometric in (2, _YCBCR) else 1),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        photometric=photometric,
        planar=first(_PLANAR, 1) == 2,
        compression=first(_COMPRESSION, 1),
        numbers=numbers,
    )
