"""What each format can carry, how bytes are recognised, and which format an answer is given in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.errors import InvalidField, NotAcceptable, UnsupportedImage, nearest
from app.imaging.picture import Picture
from app.media_types import is_json, parse_accept


@dataclass(frozen=True, slots=True)
class Output:
    """How a picture becomes bytes. `quality` is 1 to 100; `lossless` concerns WebP and AVIF only."""

    format: str
    quality: int = 90
    lossless: bool = False
    metadata: Literal["keep", "color", "strip"] = "keep"


@dataclass(frozen=True, slots=True)
class Format:
    """`side` is the longest side in pixels. `grey` and `deep`: one channel and 16 bit survive a round trip."""

    name: str
    content_type: str
    side: int
    alpha: bool
    grey: bool
    deep: bool


# JPEG: the limit of libjpeg. AVIF: larger ones are refused by libavif's decoders unless told otherwise.
FORMATS = {
    entry.name: entry
    for entry in (
        Format("png", "image/png", 2**31 - 1, alpha=True, grey=True, deep=True),
        Format("jpeg", "image/jpeg", 65500, alpha=False, grey=True, deep=False),
        Format("webp", "image/webp", 16383, alpha=True, grey=False, deep=False),
        Format("tiff", "image/tiff", 2**31 - 1, alpha=True, grey=True, deep=True),
        Format("avif", "image/avif", 16384, alpha=True, grey=True, deep=False),
    )
}
TIFF_BYTES = 2**32 - 2**20
EXACT = ("png", "tiff")
_SUPPORTED = "JPEG, PNG, WebP, TIFF, BMP and AVIF pictures are taken."
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STRANGERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "a GIF"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"\0\0\1\0", "a Windows icon"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
)


def sniff(data: bytes) -> str:
    """Return the format that the first bytes of `data` show: `jpeg png webp tiff bmp avif`.

    Raises UnsupportedImage, which says what the bytes look like instead.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(_TIFF_STARTS):
        return "tiff"
    if data.startswith(b"BM") and len(data) >= 18 and data[14] in (12, 40, 52, 56, 64, 108, 124):
        return "bmp"
    brands = _brands(data)
    if brands & {b"avif", b"avis"}:
        return "avif"
    raise UnsupportedImage(f"The file looks like {_looks_like(data, brands)}. {_SUPPORTED}", field="image")


def _brands(data: bytes) -> set[bytes]:
    """Return the brands that an ISO media file (AVIF, HEIC, MP4) gives itself."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return {data[8:12]} | {data[i : i + 4] for i in range(16, end, 4)}


def _looks_like(data: bytes, brands: set[bytes]) -> str:
    if not data:
        return "an empty file"
    if brands:
        return "a HEIC picture" if brands & {b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc"} else "a video"
    for offset, magic, name in _STRANGERS:
        if data.startswith(magic, offset):
            return name
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"<":
        return "an SVG drawing" if b"<svg" in data[:4096].lower() else "a text in HTML or XML"
    if head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7"):
        return "a PNM picture"
    if data.strip(b"\0") == b"":
        return "a file of zeros"
    printable = sum(byte >= 32 or byte in b"\t\r\n" for byte in data[:512])
    return "a text" if printable == len(data[:512]) else "no format that is known here"


def obstacle(picture: Picture, name: str) -> str | None:
    """Return why `picture` cannot go into format `name`, as a clause for the caller, or None.

    Depth is no obstacle: 16 bit is rounded to 8 where the format has no more.
    """
    entry = FORMATS[name]
    if picture.alpha is not None and not entry.alpha:
        return f"{name} cannot carry the picture's transparency; choose png, webp, tiff or avif"
    if picture.palette is not None and name not in EXACT:
        return f"a mask holds ids, which {name} may change; choose png or tiff"
    longest = max(picture.width, picture.height)
    if longest > entry.side:
        return f"a side of {longest} px is more than the {entry.side} px of {name}; choose png or tiff"
    if name == "tiff":
        samples = picture.channels + (picture.alpha is not None)
        if picture.width * picture.height * samples * picture.pixels.dtype.itemsize > TIFF_BYTES:
            return "the picture is larger than the 4 GiB of tiff; choose png"
    return None


def choose_format(picture: Picture, wanted: str, accept: str | None) -> str:
    """Return the name of the format for `picture`: `wanted`, or for `auto` what `accept` says, or its own.

    `accept` is the header's value; `application/json` and the like in it are the API's business and passed over.
    Raises InvalidField (field `format`) where `wanted` is unknown or cannot carry the picture, NotAcceptable where
    nothing in `accept` can be given.
    """
    if wanted != "auto":
        if wanted not in FORMATS:
            choices = ("auto", *FORMATS)
            raise InvalidField(
                f"format is one of {', '.join(choices)}, not {wanted[:40]!r}.{nearest(wanted[:40], choices)}",
                field="format",
                value=wanted[:40],
            )
        reason = obstacle(picture, wanted)
        if reason:
            raise InvalidField(f"format={wanted} is not possible here: {reason}.", field="format", value=wanted)
        return wanted
    own = _own(picture)
    ranges = _ranges(accept)
    if not ranges:
        return own
    # Best first: the caller's weight, named before covered by a wildcard, the picture's own, the header's order.
    ranked = sorted(
        (-weight, specific < 2, name != own, place, order, name)
        for order, (name, entry) in enumerate(FORMATS.items())
        for weight, specific, place in [_weight(entry.content_type, ranges)]
        if weight > 0 and not obstacle(picture, name)
    )
    if not ranked:
        possible = ", ".join(entry.content_type for entry in FORMATS.values() if not obstacle(picture, entry.name))
        raise NotAcceptable(
            f"Nothing that Accept names can carry this answer; possible here: {possible}.", value=(accept or "")[:200]
        )
    return ranked[0][-1]


def _own(picture: Picture) -> str:
    """Return the format that the picture came in, or png where that cannot carry it as it is now."""
    entry = FORMATS.get(picture.format)
    deep = picture.pixels.dtype.itemsize == 2
    if entry is None or (deep and not entry.deep) or obstacle(picture, entry.name):
        return "png"
    return entry.name


def _ranges(accept: str | None) -> list[tuple[str, float]]:
    """Return (media range, weight) in the header's order, without JSON, which is no picture."""
    return [(one.name, one.weight) for one in parse_accept(accept) if not is_json(one.name)]


def _weight(content_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int, int]:
    """Return (weight, how specific the range is, its place) of the most specific range that covers the type."""
    best = (0.0, -1, len(ranges))
    for place, (media, weight) in enumerate(ranges):
        specific = {content_type: 2, "image/*": 1, "*/*": 0}.get(media, -1)
        if specific > best[1]:
            best = (weight, specific, place)
    return best
