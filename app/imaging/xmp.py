"""XMP packets: removes what speaks of parts that an answer does not have, and keeps the size and orientation true.

A packet is patched rather than rewritten: what is not named here stays byte for byte. expat reads it, without document
type and entities, and with a limit of elements and attributes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from xml.parsers import expat

XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
"""Begins a JPEG segment that holds XMP."""
_XMP, _TIFF, _EXIF = "http://ns.adobe.com/xap/1.0/", "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
_NOTE, _THUMBNAIL = "http://ns.adobe.com/xmp/note/", "http://ns.adobe.com/xap/1.0/g/img/"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_GOOGLE = "http://ns.google.com/photos/1.0/"
_CAMERA, _PANORAMA = _GOOGLE + "camera/", _GOOGLE + "panorama/"
_USUAL_PREFIXES = {"xmp": _XMP, "xap": _XMP, "tiff": _TIFF, "exif": _EXIF, "xmpNote": _NOTE}
"""For packets that use these without saying what they stand for."""
_GONE_NAMESPACES = (
    _THUMBNAIL,
    "http://ns.adobe.com/hdr-gain-map/",
    _GOOGLE + "container/",
    _GOOGLE + "image/",
    _GOOGLE + "audio/",
    _GOOGLE + "depthmap/",
    "http://ns.google.com/photos/dd/",
    "http://ns.apple.com/HDRGainMap/",
    "http://ns.apple.com/depthData/",
    "http://ns.apple.com/pixeldatainfo/",
)
"""Beginnings of the namespaces of gain maps, depth maps, sound and thumbnails, and of directories of appended files."""
_GONE = re.compile(
    "|".join(
        re.escape(namespace) + names
        for namespace, names in (
            (_XMP, "Thumbnails"),
            (_NOTE, "HasExtendedXMP"),
            (_CAMERA, "(?:MotionPhoto|MicroVideo).*"),
        )
    )
)
_ORIENTATION = _TIFF + "Orientation"
_AXES = {
    _TIFF + "ImageWidth": 0,
    _TIFF + "ImageLength": 1,
    _EXIF + "PixelXDimension": 0,
    _EXIF + "PixelYDimension": 1,
}
"""Names of a size of the picture: 0 is its width, 1 its height."""
_REGION_AXES = {_DIMENSIONS + "w": 0, _DIMENSIONS + "h": 1}
_PANORAMA_AXES = {
    **dict.fromkeys((_PANORAMA + "FullPanoWidthPixels", _PANORAMA + "CroppedAreaLeftPixels"), 0),
    **dict.fromkeys((_PANORAMA + "FullPanoHeightPixels", _PANORAMA + "CroppedAreaTopPixels"), 1),
    _PANORAMA + "CroppedAreaImageWidthPixels": 0,
    _PANORAMA + "CroppedAreaImageHeightPixels": 1,
}
_PANORAMA_SIZE = (_PANORAMA + "CroppedAreaImageWidthPixels", _PANORAMA + "CroppedAreaImageHeightPixels")
_JUNK_AT_END = expat.errors.codes[expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT]
_MAX_BYTES, _MAX_PARTS, _MAX_DEPTH = 1 << 23, 1 << 17, 256
_TAG = re.compile(rb"""<[^\s/>]++((?:[^>"']++|"[^"]*+"|'[^']*+')*+)>""")
_ATTRIBUTE = re.compile(rb"""\s++[^\s=]++\s*+=\s*+("[^"]*+"|'[^']*+')""")
_NUMBER = re.compile(r"\s*(\d{1,9})\s*")


class InvalidXmp(ValueError):
    """A packet that is no XML, has a document type or is too large."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes `begin` to `end` of a packet: a length in pixels along `axis` (0 is width).

    It is `value` in a picture whose side is `of`: 1 and 1 for the side itself.
    """

    begin: int
    end: int
    axis: int
    value: int = 1
    of: int = 1


@dataclass(frozen=True, slots=True)
class Xmp:
    """A packet with orientation 1 and without what is gone; `orientation` (1 to 8) is what it said, if anything."""

    packet: bytes
    orientation: int | None
    sizes: tuple[Size, ...]


def clean_xmp(raw: bytes) -> Xmp:
    """Return a packet without thumbnails and what speaks of parts that an answer does not have. Raises InvalidXmp."""
    if len(raw) > _MAX_BYTES:
        raise InvalidXmp("too large")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raw = raw.decode("utf-16", "replace").encode()
    data = raw.strip(b"\0")
    for encoding in ("utf-8", "iso-8859-1"):
        reader = _Reader(data, encoding)
        try:
            return reader.read()
        except expat.ExpatError as error:
            reason = error
            if error.code == _JUNK_AT_END:
                return _Reader(data[: reader.end], encoding).read()
    raise InvalidXmp(str(reason))


def resize_xmp(packet: bytes, sizes: Iterable[Size], width: int, height: int) -> bytes:
    """Return a packet from `clean_xmp` with its sizes those of a picture of `width` × `height`."""
    parts, at = [], 0
    for size in sizes:
        length = round(size.value * (width, height)[size.axis] / size.of)
        parts += [packet[at : size.begin], b"%d" % length]
        at = size.end
    return b"".join([*parts, packet[at:]])


@dataclass(slots=True)
class _Element:
    """An open element: its name, where it and its content begin, and the prefixes that it declares."""

    name: str
    begin: int
    content: int
    prefixes: list[str]
    text: list[str]


class _Reader:
    """Reads one packet and collects its changes: (begin, end, new bytes)."""

    def __init__(self, data: bytes, encoding: str) -> None:
        self.end = 0  # of the outermost element
        self._data = data
        self._parser = expat.ParserCreate(encoding)
        self._parser.ordered_attributes = self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._open: list[_Element] = []
        self._gone_depth = 0  # of the element that is being removed, 0 if none
        self._parts = 0
        self._spaces: dict[str, list[str]] = defaultdict(list)
        self._declared: list[tuple[str, int, int]] = []
        self._used: set[str] = set()
        self._changes: list[tuple[int, int, bytes]] = []
        self._sizes: list[Size] = []
        self._panorama: dict[str, int] = {}
        self._orientation: int | None = None

    def read(self) -> Xmp:
        """Return the clean packet. Raises expat.ExpatError and InvalidXmp."""
        self._parser.Parse(self._data, True)
        self._changes += [(begin, end, b"") for space, begin, end in self._declared if space not in self._used]
        return self._apply()

    def _apply(self) -> Xmp:
        parts, at, moved = [], 0, []
        shift = 0
        sizes = iter(sorted(self._sizes, key=lambda size: size.begin))
        size = next(sizes, None)
        for begin, end, new in [*sorted(self._changes), (len(self._data), len(self._data), b"")]:
            while size is not None and size.begin < begin:
                of = size.of or self._panorama.get(_PANORAMA_SIZE[size.axis], 0)
                if of:
                    moved.append(replace(size, begin=size.begin + shift, end=size.end + shift, of=of))
                size = next(sizes, None)
            parts += [self._data[at:begin], new]
            shift += len(new) - (end - begin)
            at = end
        return Xmp(b"".join(parts), self._orientation, tuple(moved))

    def _refuse(self, *_: object) -> None:
        raise InvalidXmp("a document type")

    def _resolve(self, name: str) -> str:
        """Return the namespace and the local name of a qualified name, as one string; "" without a namespace."""
        prefix, _, local = name.rpartition(":")
        bound = self._spaces.get(prefix)
        space = bound[-1] if bound else _USUAL_PREFIXES.get(prefix, "")
        return space + local if space else ""

    def _start(self, name: str, attributes: list[str]) -> None:
        begin = self._parser.CurrentByteIndex
        self._parts += 1 + len(attributes) // 2
        if self._parts > _MAX_PARTS or len(self._open) > _MAX_DEPTH:
            raise InvalidXmp("too many elements and attributes")
        tag = _TAG.match(self._data, begin)
        if tag is None:
            raise InvalidXmp("a tag that is none")
        element = _Element("", begin, tag.end(), [], [])
        self._open.append(element)
        if self._gone_depth:
            return
        pairs = list(zip(attributes[::2], attributes[1::2], strict=True))
        for prefix, space in self._find_declarations(pairs):
            self._spaces[prefix].append(space)
            element.prefixes.append(prefix)
        element.name = self._resolve(name)
        if _is_gone(element.name):
            self._gone_depth = len(self._open)
            return
        self._used.add(_find_namespace(element.name))
        matches = list(_ATTRIBUTE.finditer(self._data, *tag.span(1)))
        if len(matches) != len(pairs):
            raise InvalidXmp("attributes that are none")
        for (key, value), match in zip(pairs, matches, strict=True):
            self._read_attribute(key, value, match)

    @staticmethod
    def _find_declarations(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        named = [(key.removeprefix("xmlns:"), value) for key, value in pairs if key.startswith("xmlns:")]
        return named + [("", value) for key, value in pairs if key == "xmlns"]

    def _read_attribute(self, key: str, value: str, match: re.Match[bytes]) -> None:
        if key.startswith("xmlns:"):
            if value in (_NOTE, _CAMERA) or value.startswith(_GONE_NAMESPACES):
                self._declared.append((value, *match.span()))
            return
        name = self._resolve(key) if ":" in key else ""
        if _is_gone(name):
            self._changes.append((*match.span(), b""))
            return
        self._used.add(_find_namespace(name))
        self._read_value(name, value, match.start(1) + 1, match.end(1) - 1)

    def _add_text(self, text: str) -> None:
        if self._open and self._open[-1].name.startswith((_TIFF, _EXIF, _DIMENSIONS, _PANORAMA)):
            self._open[-1].text.append(text)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        at = self._parser.CurrentByteIndex
        is_empty = self._data[element.content - 2 : element.content] == b"/>"
        end = element.content if is_empty else self._data.index(b">", at) + 1
        if not self._open:
            self.end = end
        if self._gone_depth > len(self._open):
            self._gone_depth = 0
            self._changes.append((element.begin, end, b""))
        elif element.text and not is_empty:
            self._read_value(element.name, "".join(element.text), element.content, at)
        for prefix in element.prefixes:
            self._spaces[prefix].pop()

    def _read_value(self, name: str, value: str, begin: int, end: int) -> None:
        """Take note of a property: an attribute's value, or an element's content, is at bytes `begin` to `end`."""
        number = _NUMBER.fullmatch(value)
        if number is None or b"<" in self._data[begin:end]:
            return
        if name == _ORIENTATION:
            if self._orientation is None and 1 <= int(number[1]) <= 8:
                self._orientation = int(number[1])
            self._changes.append((begin, end, b"1"))
        elif name in _AXES:
            self._sizes.append(Size(begin, end, _AXES[name]))
        elif name in _REGION_AXES and any(element.name == _REGIONS + "AppliedToDimensions" for element in self._open):
            self._sizes.append(Size(begin, end, _REGION_AXES[name]))
        elif name in _PANORAMA_AXES:
            self._panorama[name] = int(number[1])
            self._sizes.append(Size(begin, end, _PANORAMA_AXES[name], int(number[1]), 0))


def _is_gone(name: str) -> bool:
    return name.startswith(_GONE_NAMESPACES) or _GONE.fullmatch(name) is not None


def _find_namespace(name: str) -> str:
    """Return the namespace of a resolved name, up to its last slash."""
    return name[: name.rfind("/") + 1]
