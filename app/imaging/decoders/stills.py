"""What the decoders of AVIF and HEIC share: both are a coded picture, or a grid of them, in an ISO media file.

A library gets a file written anew, of the picture's items alone, whose coded sizes were compared with the container's:
no metadata, thumbnails, sequences or transformations reach it. Transformations are applied here, so in one way.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import AnimatedImage, UnsupportedImage
from app.imaging.bmff import Box, Item, MediaFile, read_media_file, write_media_file
from app.imaging.coded_headers import CodedHeader, read_av1_headers, read_hevc_headers
from app.imaging.color_encoding import ColorEncoding, from_code_points
from app.imaging.decoders.base import MAX_METADATA_BYTES, Size, broken_image

_SEQUENCE_BRANDS = (b"avis", b"hevc", b"hevx", b"msf1")
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
    b"urn:mpeg:avc:2015:auxid:1",
)
_CONFIGURATION = {b"av01": b"av1C", b"hvc1": b"hvcC"}
_BRANDS = {b"av01": b"avifmif1miaf", b"hvc1": b"heicmif1miaf"}
_PIXEL_PROPERTIES = (b"ispe", b"pixi", b"av1C", b"hvcC", b"auxC", b"a1op", b"lsel")
_MAX_FRAMES = 4  # the layers of an AV1 picture; a frame that is not shown costs as much as one that is
_BLOCK = 64  # HEVC pads the coded size to whole blocks


@dataclass(frozen=True, slots=True)
class Still:
    """The picture of a file: (type of coding, name of format), the items it is made of, and their coded headers.

    `primary` is the item to show, its colors may come from the first of its tiles.
    """

    file: MediaFile
    coding: bytes
    name: str
    primary: Item
    items: dict[int, Item]
    headers: dict[int, list[CodedHeader]]

    @property
    def size(self) -> Size:
        """The largest (width, height) of the container and of the coded headers."""
        sizes = [_read_extent(item) for item in self.items.values()]
        sizes += [(header.width, header.height) for headers in self.headers.values() for header in headers]
        return max(sizes, key=math.prod)

    @property
    def first_header(self) -> CodedHeader:
        """The coded header of the picture, or of its first tile."""
        return next(iter(self.headers.values()))[0]

    @property
    def color_properties(self) -> list[bytes]:
        """The contents of the color properties of the picture, and of its first tile if it has none itself."""
        own = [content for kind, content in self.primary.properties if kind == b"colr"]
        first_tile = next(iter(self.headers))
        return own or [content for kind, content in self.items[first_tile].properties if kind == b"colr"]

    @property
    def icc(self) -> bytes | None:
        """The color profile, or None."""
        return next((content[4:] for content in self.color_properties if content[:4] in (b"prof", b"rICC")), None)

    def read_encoding(self) -> tuple[ColorEncoding | None, tuple[str, ...]]:
        """Return the color encoding that the container names, or else the coded picture, and warnings."""
        named = [content for content in self.color_properties if content[:4] == b"nclx" and len(content) >= 8]
        code_points = struct.unpack_from(">HH", named[0], 4) if named else self.first_header.code_points
        if self.icc or code_points is None:
            return None, ()
        encoding = from_code_points(*code_points)
        return encoding, () if encoding else ("color=ignored",)

    def read_metadata(self) -> tuple[bytes | None, bytes | None, tuple[str, ...]]:
        """Return EXIF, XMP and warnings about blocks that cannot be read."""
        found: dict[str, bytes] = {}
        warnings: list[str] = []
        primary = self.file.primary
        for number in self.file.refer_to(b"cdsc", primary):
            item = self.file.items.get(number, Item())
            is_xmp = item.kind == b"mime" and item.content_type == b"application/rdf+xml"
            name = "exif" if item.kind == b"Exif" else "xmp" if is_xmp else None
            if name is None or name in found:
                continue
            try:
                block = self.file.read(item, MAX_METADATA_BYTES)
            except ValueError:
                block = b""
            if name == "exif":  # begins with where the TIFF header is
                block = block[4 + int.from_bytes(block[:4], "big") :]
            if block and not item.encoding:
                found[name] = block
            else:
                warnings.append(f"{name}=dropped")
        return found.get("exif"), found.get("xmp"), tuple(warnings)

    def strip(self) -> bytes:
        """Return a file of the picture alone. Raises BrokenImage if sizes disagree, ValueError if data is missing."""
        for number, headers in self.headers.items():
            width, height = (-(-side // _BLOCK) * _BLOCK for side in _read_extent(self.items[number]))
            if any(header.width > width or header.height > height for header in headers):
                raise broken_image(self.name)
        contents, blocks, total = {}, {}, 0
        for number, item in self.items.items():
            place = (item.in_idat, *item.extents)
            if place not in blocks:  # equal tiles may share their data
                blocks[place] = self.file.read(item)
                total += len(blocks[place])
            data = blocks[place]
            if len(data) < sum(length for _, length in item.extents) or total > len(self.file.data):
                raise ValueError("data of the picture is missing, or overlaps")
            kept = [entry for entry in item.properties if _describes_pixels(entry)]
            if item is self.primary and b"colr" not in dict(kept):  # in some files only the tiles of a grid have it
                kept += [entry for entry in self.items[next(iter(self.headers))].properties if _is_nclx(entry)][:1]
            contents[number] = (item.kind, kept, data)
        references = [
            (kind, begin, ends)
            for kind, begin, ends in self.file.references
            if kind in (b"dimg", b"auxl", b"prem") and begin in contents and all(end in contents for end in ends)
        ]
        return write_media_file(_BRANDS[self.coding], self.file.primary, contents, references)

    def apply_transformations(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Return a view of decoded samples, (height, width, channels): clean aperture, rotation, mirror, in order."""
        for kind, content in self.primary.properties:
            if kind == b"clap":
                samples = _crop_to_clean_aperture(samples, content)
            elif kind == b"irot":
                samples = np.rot90(samples, content[0] & 3)  # anticlockwise
            elif kind == b"imir":
                samples = samples[:, ::-1] if content[0] & 1 else samples[::-1]
        return samples


def _describes_pixels(entry: Box) -> bool:
    return entry[0] in _PIXEL_PROPERTIES or _is_nclx(entry)


def _is_nclx(entry: Box) -> bool:
    return entry[0] == b"colr" and entry[1][:4] == b"nclx"


def read_still(data: bytes, coding: bytes, name: str) -> Still:
    """Return the picture of a file of format `name` that is coded as `coding` (`av01` or `hvc1`).

    Raises AnimatedImage, UnsupportedImage, and nearly any other exception for a broken file.
    """
    file = read_media_file(data)
    if file.has_tracks and (file.brand in _SEQUENCE_BRANDS or file.primary not in file.items):
        raise AnimatedImage(f"The {name} file is a sequence of frames; send a single picture.", field="image")
    items: dict[int, Item] = {}
    _add_item(file, file.primary, coding, name, items)
    for number in list(items):
        alphas = [alpha for alpha in file.refer_to(b"auxl", number) if _is_alpha(file.items.get(alpha, Item()))]
        for alpha in alphas[:1]:
            _add_item(file, alpha, coding, name, items)
    headers: dict[int, list[CodedHeader]] = {}
    known: dict[tuple[Any, ...], list[CodedHeader]] = {}
    total = 0
    for number, item in items.items():
        if item.kind != coding:
            continue
        config = item.find(_CONFIGURATION[coding]) or b""
        place = (config, item.in_idat, *item.extents)
        if place not in known:  # equal tiles may share their data; others may not, so that work is bounded
            total += len(config) + sum(min(length or len(data), len(data)) for _, length in item.extents)
            if total > 2 * len(data):
                raise ValueError("data of the picture overlaps")
            known[place] = _read_headers(file, item, config, name)
        headers[number] = known[place]
    return Still(file, coding, name, file.items[file.primary], items, headers)


def _add_item(file: MediaFile, number: int, coding: bytes, name: str, items: dict[int, Item]) -> None:
    """Add an item, and the tiles if it is a grid, to `items`."""
    item = file.items[number]
    items[number] = item
    tiles = _read_grid(file, number, item) if item.kind == b"grid" else ()
    for tile in tiles:
        items[tile] = file.items[tile]
    for kind in {items[tile].kind for tile in tiles} or {item.kind}:
        if kind != coding:
            shown = kind.decode("latin-1")
            raise UnsupportedImage(
                f"The picture in this {name} file is of type {shown!r}, which is not supported; save it anew.",
                field="image",
            )


def _read_grid(file: MediaFile, number: int, item: Item) -> tuple[int, ...]:
    """Return the tiles of a grid. Raises ValueError if they do not fit its size."""
    data = file.read(item, 64)
    rows, columns = data[2] + 1, data[3] + 1
    width, height = struct.unpack_from(">II" if data[1] & 1 else ">HH", data, 4)
    tiles = file.referred_from(b"dimg", number)
    tile_width, tile_height = _read_extent(file.items[tiles[0]])
    if (
        (width, height) != _read_extent(item)
        or len(tiles) != rows * columns
        or any(_read_extent(file.items[tile]) != (tile_width, tile_height) for tile in tiles)
        or tile_width * (columns - 1) >= width
        or tile_height * (rows - 1) >= height
    ):
        raise ValueError("the tiles do not fit the grid")
    return tiles


def _read_headers(file: MediaFile, item: Item, config: bytes, name: str) -> list[CodedHeader]:
    """Return the headers of a coded item. Raises ValueError if there are none, UnsupportedImage for many frames."""
    data = file.read(item)
    if item.kind == b"av01":
        headers, frames = read_av1_headers(data)
    else:
        headers, frames = read_hevc_headers(config, data)
    if not headers:
        raise ValueError("no header in the coded picture")
    if frames > _MAX_FRAMES:
        raise UnsupportedImage(f"A picture in this {name} file is coded as {frames} frames.", field="image")
    return headers


def _read_extent(item: Item) -> Size:
    """Return (width, height) of an item by its `ispe` property."""
    width, height = struct.unpack_from(">II", item.find(b"ispe") or b"", 4)
    return width, height


def _is_alpha(item: Item) -> bool:
    return (item.find(b"auxC") or b"")[4:].split(b"\0")[0] in _ALPHA


def _crop_to_clean_aperture(samples: NDArray[Any], content: bytes) -> NDArray[Any]:
    """Return the clean aperture of samples as far as it lies inside; all of them if it is empty or invalid."""
    numbers = struct.unpack_from(">IIIIiIiI", content)
    if not all(numbers[1::2]):
        return samples
    width, height, right, down = (Fraction(numbers[i], numbers[i + 1]) for i in range(0, 8, 2))
    spans = []
    for side, length, offset in ((samples.shape[0], height, down), (samples.shape[1], width, right)):
        begin = math.floor((side - length) / 2 + offset)
        spans.append(slice(max(begin, 0), max(min(begin + round(length), side), 0)))
    cropped = samples[spans[0], spans[1]]
    return cropped if cropped.size else samples
