"""Detects the format of a file, knows what each format can store, and chooses the format of a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.errors import InvalidField, NotAcceptable, UnsupportedImage, nearest
from app.imaging.picture import Picture
from app.media_types import is_json, parse_accept


@dataclass(frozen=True, slots=True)
class Output:
    """How to encode a picture. `quality` is 1 to 100; `lossless` applies to WebP and AVIF only.

    `metadata`: `keep` writes EXIF, ICC and XMP, `color` only ICC, `strip` none.
    """

    format: str
    quality: int = 90
    lossless: bool = False
    metadata: Literal["keep", "color", "strip"] = "keep"


@dataclass(frozen=True, slots=True)
class Format:
    """What a format can store: sides up to `max_side` pixels, transparency, one channel (`gray`), 16 bit samples."""

    name: str
    content_type: str
    max_side: int
    alpha: bool
    gray: bool
    supports_16_bit: bool


# JPEG: the limit of libjpeg. AVIF: larger ones are refused by libavif's decoders by default.
FORMATS = {
    entry.name: entry
    for entry in (
        Format("png", "image/png", 2**31 - 1, alpha=True, gray=True, supports_16_bit=True),
        Format("jpeg", "image/jpeg", 65500, alpha=False, gray=True, supports_16_bit=False),
        Format("webp", "image/webp", 16383, alpha=True, gray=False, supports_16_bit=False),
        Format("tiff", "image/tiff", 2**31 - 1, alpha=True, gray=True, supports_16_bit=True),
        Format("avif", "image/avif", 16384, alpha=True, gray=True, supports_16_bit=False),
    )
}
MAX_TIFF_BYTES = 2**32 - 2**20
LOSSLESS = ("png", "tiff")
_SUPPORTED = "Supported formats are JPEG, PNG, WebP, TIFF, BMP, AVIF, HEIC and GIF."
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Offset, bytes, and what the file is.
UNSUPPORTED_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (4, b"ftypcrx ", "a camera RAW picture"),
    (0, b"FUJIFILMCCD-RAW", "a camera RAW picture"),
    (0, b"IIRO", "a camera RAW picture"),
    (0, b"IIU\0", "a camera RAW picture"),
    (8, b"CR\2\0", "a camera RAW picture"),
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
    """Return the format of a file by its first bytes: `jpeg`, `png`, `webp`, `tiff`, `bmp`, `avif`, `heic` or `gif`.

    Raises UnsupportedImage, which says what the file looks like instead.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(_TIFF_SIGNATURES) and data[8:12] != b"CR\2\0":  # Canon's RAW begins like a TIFF
        return "tiff"
    if data.startswith(b"BM") and len(data) >= 18 and data[14] in (12, 40, 52, 56, 64, 108, 124):
        return "bmp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    brands = _read_brands(data)
    if brands & {b"avif", b"avis"}:
        return "avif"
    if brands & _HEIC_BRANDS:
        return "heic"
    raise UnsupportedImage(f"The file looks like {_describe_file(data, brands)}. {_SUPPORTED}", field="image")


def _read_brands(data: bytes) -> set[bytes]:
    """Return the brands in the header of an ISO media file (AVIF, HEIC, MP4), or an empty set."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return {data[8:12]} | {data[i : i + 4] for i in range(16, end, 4)}


def _describe_file(data: bytes, brands: set[bytes]) -> str:
    """Return what an unsupported file seems to be, as in "a GIF"."""
    if not data:
        return "an empty file"
    for offset, magic, name in UNSUPPORTED_SIGNATURES:
        if data.startswith(magic, offset):
            return name
    if b"mif3" in brands:
        return "an AVIF or HEIC picture with a `mini` box, which few programs read yet"
    if brands:
        return "a video"
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"<":
        return "an SVG drawing" if b"<svg" in data[:4096].lower() else "an HTML or XML document"
    if head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7"):
        return "a PNM picture"
    if data.strip(b"\0") == b"":
        return "a file of zeros"
    printable = sum(byte >= 32 or byte in b"\t\r\n" for byte in data[:512])
    return "plain text" if printable == len(data[:512]) else "no known format"


def why_unsupported(picture: Picture, name: str) -> str | None:
    """Return why format `name` cannot store `picture`, as a clause for an error message, or None if it can.

    Bit depth is never a reason: 16 bit is rounded to 8 if the format has no more.
    """
    entry = FORMATS[name]
    if picture.alpha is not None and not entry.alpha:
        return f"{name} cannot store the picture's transparency; choose png, webp, tiff or avif"
    if picture.palette is not None and name not in LOSSLESS:
        return f"a mask holds class ids, which {name} may change; choose png or tiff"
    longest = max(picture.width, picture.height)
    if longest > entry.max_side:
        return f"a side of {longest} px exceeds the {entry.max_side} px of {name}; choose png or tiff"
    if name == "tiff":
        samples = picture.channels + (picture.alpha is not None)
        if picture.width * picture.height * samples * picture.pixels.dtype.itemsize > MAX_TIFF_BYTES:
            return "the picture exceeds the 4 GiB of tiff; choose png"
    return None


def choose_format(picture: Picture, wanted: str, accept: str | None) -> str:
    """Return the name of the format to encode `picture` in.

    That is `wanted`, or if it is `auto`, the best match of `accept`, or without one the format of the input. `accept`
    is the value of the `Accept` header; JSON types in it are ignored here. Raises InvalidField (field `format`) if
    `wanted` is unknown or cannot store the picture, NotAcceptable if no format in `accept` can.
    """
    if wanted != "auto":
        if wanted not in FORMATS:
            choices = ("auto", *FORMATS)
            raise InvalidField(
                f"`format` must be one of {', '.join(choices)}, not {wanted[:40]!r}.{nearest(wanted[:40], choices)}",
                field="format",
                value=wanted[:40],
            )
        reason = why_unsupported(picture, wanted)
        if reason:
            raise InvalidField(f"`format={wanted}` is not possible here: {reason}.", field="format", value=wanted)
        return wanted
    input_format = _input_format(picture)
    ranges = [(one.name, one.weight) for one in parse_accept(accept) if not is_json(one.name)]
    if not ranges:
        return input_format
    # Best first: highest weight, named before matched by a wildcard, the input's format, the header's order.
    ranked = sorted(
        (-weight, specificity < 2, name != input_format, position, order, name)
        for order, (name, entry) in enumerate(FORMATS.items())
        for weight, specificity, position in [_match(entry.content_type, ranges)]
        if weight > 0 and not why_unsupported(picture, name)
    )
    if not ranked:
        possible = ", ".join(
            entry.content_type for entry in FORMATS.values() if not why_unsupported(picture, entry.name)
        )
        raise NotAcceptable(
            f"No format in `Accept` can store this picture; possible here: {possible}.", value=(accept or "")[:200]
        )
    return ranked[0][-1]


def _input_format(picture: Picture) -> str:
    """Return the format that the picture was decoded from, or `png` if that cannot store it as it is now.

    HEIC is not written; JPEG takes its place, which every reader knows.
    """
    entry = FORMATS.get("jpeg" if picture.format == "heic" else picture.format)
    is_16_bit = picture.pixels.dtype.itemsize == 2
    if entry is None or (is_16_bit and not entry.supports_16_bit) or why_unsupported(picture, entry.name):
        return "png"
    return entry.name


def _match(content_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int, int]:
    """Return (weight, specificity, position) of the most specific range that matches `content_type`."""
    best = (0.0, -1, len(ranges))
    for position, (media, weight) in enumerate(ranges):
        specificity = {content_type: 2, "image/*": 1, "*/*": 0}.get(media, -1)
        if specificity > best[1]:
            best = (weight, specificity, position)
    return best
