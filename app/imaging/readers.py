"""One reader a format: bytes to samples, with the size checked before any decoder sees the file.

Pillow decodes up to 8 bit, simplejpeg plain JPEG, OpenCV 16 bit (Pillow turns 16-bit colour into 8 without a word).
A reader may raise nearly anything for a damaged file; `codec.decode` makes one error of it.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from app.errors import AnimatedImage, BrokenImage, TooManyPixels, UnsupportedImage
from app.imaging import color, writers
from app.imaging.tiff import TiffHeader, read_pages

# Sizes are checked here, from the header; Pillow's own limit would only add warnings and errors of another kind.
Image.MAX_IMAGE_PIXELS = None

# Files may not cost more than their size suggests: every scan of a JPEG is a pass over the whole picture, and every
# segment, chunk and tag a step in here.
_MANY_SCANS = 20
_MAX_SCANNED = 2 * 10**9
_MAX_PARTS = 1 << 17
_PIECE = 1 << 20
MAX_BLOCK = 1 << 24
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a JPEG among coded bytes, restarts left out
_SMALL_GAP = 8
Size = tuple[int, int]  # width, height
_SEPARATED = 5  # TIFF's photometric interpretation for CMYK


@dataclass(frozen=True, slots=True)
class Decoded:
    """Samples as (height, width, 1 to 4), grey or RGB with or without alpha, not yet upright; blocks as found."""

    samples: NDArray[Any]
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()
    upright: bool = False


def damaged(name: str) -> BrokenImage:
    """Return the error for a file of this format that cannot be followed."""
    return BrokenImage(f"The {name} file is truncated or corrupt; send it again or export it anew.", field="image")


def turned(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return samples as EXIF `orientation` wants them shown."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 7, 8):
        samples = samples[:, ::-1] if orientation in (2, 3) else samples[::-1]
    if orientation in (3, 4, 6, 7):
        samples = samples[::-1] if orientation in (3, 4) else samples[:, ::-1]
    return samples


def limit(width: int, height: int, max_pixels: int) -> None:
    """Raise TooManyPixels for a picture of more than `max_pixels`, ValueError for one of none."""
    if width < 1 or height < 1:
        raise ValueError("a side is empty")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The picture has {width} × {height} = {width * height} pixels; at most {max_pixels} are taken.",
            field="image",
            value=width * height,
            limit=max_pixels,
        )


def _animated(name: str, frames: int) -> AnimatedImage:
    return AnimatedImage(f"The {name} file has {frames} frames; send a single picture.", field="image", value=frames)


def _opened_size(data: bytes, name: str) -> Size:
    with Image.open(BytesIO(data), formats=[name.upper()]) as image:
        return image.size


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    image = Image.open(BytesIO(data), formats=[name.upper()])
    limit(*image.size, max_pixels)
    return image


def _samples(image: Image.Image, icc: bytes | None = None) -> NDArray[Any]:
    """Return the samples of an image of any 8-bit mode; CMYK and LAB become sRGB."""
    if image.mode in ("CMYK", "LAB"):
        image = color.to_srgb(image, icc)
    elif image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    elif image.mode in ("RGBa", "La", "YCbCr", "RGBX", "1"):
        image = image.convert({"RGBa": "RGBA", "La": "LA", "1": "L"}.get(image.mode, "RGB"))
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise UnsupportedImage(f"Pictures of the kind {image.mode} are not taken; convert to RGB.", field="image")
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def _bytes(value: object) -> bytes | None:
    """Return a block of Pillow's `info`, where some are text."""
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) and value else None


# JPEG


@dataclass(frozen=True, slots=True)
class _Jpeg:
    """The segments before the coded picture, at `start`. `plain` is the file without those that only describe."""

    frame: tuple[int, bytes]
    blocks: list[tuple[int, bytes]]
    plain: bytes
    start: int

    @property
    def size(self) -> Size:
        _, frame = self.frame
        return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")

    def first(self, marker: int, prefix: bytes) -> bytes | None:
        return next(
            (body[len(prefix) :] for kind, body in self.blocks if kind == marker and body[: len(prefix)] == prefix),
            None,
        )

    @property
    def icc(self) -> bytes | None:
        """The profile, from as many segments as it takes."""
        prefix = b"ICC_PROFILE\0"
        parts = {
            body[12]: body[14:] for kind, body in self.blocks if kind == 0xE2 and body[:12] == prefix and len(body) > 14
        }
        return b"".join(parts[number] for number in sorted(parts)) or None


def _read_jpeg(data: bytes, max_pixels: int) -> Decoded:
    jpeg = _jpeg_segments(data)
    marker, frame = jpeg.frame
    width, height = jpeg.size
    limit(width, height, max_pixels)
    precision, components = frame[0], frame[5]
    if precision != 8 or marker not in (0xC0, 0xC1, 0xC2):
        raise UnsupportedImage(
            "This JPEG is of a rare kind (lossless, arithmetic or more than 8 bit); save it as a common JPEG or PNG.",
            field="image",
        )
    scans = _scans(data, jpeg.start)
    if scans > _MANY_SCANS and scans * width * height > _MAX_SCANNED:
        raise UnsupportedImage(f"This JPEG draws its picture in {scans} scans; save it anew.", field="image")
    notes: tuple[str, ...] = ("mpo=first",) if jpeg.first(0xE2, b"MPF\0") else ()
    icc = jpeg.icc
    if components == 4:
        samples = _samples(_open(jpeg.plain, "jpeg", max_pixels), icc)
        icc = None
        notes += ("color=srgb",)
    else:
        samples = _plain_jpeg(data, jpeg.plain, "GRAY" if components == 1 else "RGB", max_pixels)
    exif, xmp = jpeg.first(0xE1, b"Exif\0\0"), jpeg.first(0xE1, writers.XMP_PREFIX)
    return Decoded(samples, exif, icc, xmp, notes)


def _jpeg_segments(data: bytes) -> _Jpeg:
    """Walk up to the first scan. Raises BrokenImage, IndexError, ValueError where that is not reached."""
    at, frame, blocks, plain = 2, None, [], [data[:2]]
    for _ in range(_MAX_PARTS):
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
            return _Jpeg(frame, blocks, b"".join([*plain, data[start:]]), start)
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += length
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None or len(body) < 6:
                raise damaged("jpeg")
            frame = (marker, body)
        if marker in (0xE1, 0xE2, 0xED, 0xFE):
            blocks.append((marker, body))
        else:
            plain.append(data[start:at])
    raise damaged("jpeg")


def _scans(data: bytes, at: int) -> int:
    """Return how many scans there are from `at` to the picture's end: a phone may have put a film behind it.

    Raises BrokenImage where there are more markers than a picture has.
    """
    scans = 0
    for _ in range(_MAX_PARTS):
        while (found := _MARKER.search(data, at, at + _PIECE + 1)) is None:  # the interpreter's lock is held meanwhile
            at += _PIECE
            if at >= len(data):
                return scans
        at = found.end()
        marker = data[at - 1]
        if marker == 0xD9:
            return scans
        scans += marker == 0xDA
        if marker >= 0xC0:
            at += int.from_bytes(data[at : at + 2], "big")
    raise damaged("jpeg")


def _plain_jpeg(data: bytes, plain: bytes, colorspace: str, max_pixels: int) -> NDArray[Any]:
    """Return the samples of a grey or RGB JPEG; `plain` is the same file without what only describes."""
    try:
        samples: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace)
        return samples
    except ValueError as error:
        # Strays between segments and odd but harmless parameters are common in good files; all else is damage.
        words = str(error).split()
        gap = "extraneous" in words and (int(words[words.index("extraneous") - 1]) <= _SMALL_GAP or _in_header(words))
        if not gap and "SOS" not in words:
            raise
        return _samples(_open(plain, "jpeg", max_pixels))


def _in_header(words: list[str]) -> bool:
    """Tell whether libjpeg's warning is about strays before a segment that is no part of the coded picture."""
    return words[-1].startswith("0xe") or words[-1] in ("0xfe", "0xdb", "0xc4", "0xc0", "0xc2")


# PNG


@dataclass(frozen=True, slots=True)
class _PngHeader:
    width: int
    height: int
    depth: int
    colour: int


def _png_header(data: bytes) -> _PngHeader:
    if data[12:16] != b"IHDR":
        raise damaged("png")
    return _PngHeader(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), data[24], data[25])


def _png_size(data: bytes) -> Size:
    header = _png_header(data)
    return header.width, header.height


def _read_png(data: bytes, max_pixels: int) -> Decoded:
    header = _png_header(data)
    limit(header.width, header.height, max_pixels)
    plain = [data[:8]]
    icc = exif = xmp = None
    seen_icc = seen_xmp = False
    trns = b""
    for kind, content, chunk in _png_chunks(data):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            plain.append(chunk)
        if kind == b"acTL" and int.from_bytes(content[:4], "big") > 1:
            raise _animated("png", int.from_bytes(content[:4], "big"))
        if kind == b"tRNS":
            trns = content
        elif kind == b"iCCP" and not seen_icc:
            seen_icc = True
            icc = _inflated(content.partition(b"\0")[2][1:])
        elif kind == b"eXIf":
            exif = content
        elif kind == b"iTXt" and not seen_xmp and content.startswith(b"XML:com.adobe.xmp\0"):
            seen_xmp = True
            xmp = _itxt(content)
    # Decoders get what makes pixels and nothing else: no gamma to apply, no text to unpack, no frames.
    samples = _png_samples(b"".join(plain), header, max_pixels)
    if header.colour in (0, 2) and trns:
        samples = _with_transparent_colour(samples, header, trns)
    return Decoded(samples, exif, icc, xmp)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (kind, content, whole chunk) up to IEND. Raises BrokenImage where the file ends before."""
    at = 8
    for _ in range(_MAX_PARTS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise damaged("png")
        yield kind, data[at + 8 : end - 4], data[at:end]
        if kind == b"IEND":
            return
        at = end
    raise damaged("png")


def _inflated(packed: bytes) -> bytes | None:
    """Return what a compressed metadata block holds, or None where it is broken or unreasonably large."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, MAX_BLOCK)
    except zlib.error:
        return None
    return content if unpacker.eof else None


def _itxt(content: bytes) -> bytes | None:
    _, _, rest = content.partition(b"\0")
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[-1]
    return _inflated(text) if compressed else text


def _png_samples(data: bytes, header: _PngHeader, max_pixels: int) -> NDArray[Any]:
    if header.depth == 16 and header.colour != 0:
        return _opencv(data, "png", {2: 3, 4: 2, 6: 4}[header.colour])
    image = _open(data, "png", max_pixels)
    image.load()
    if header.depth == 16:
        return np.asarray(image).astype(np.uint16)[..., None]
    if header.colour == 0:
        image.info.pop("transparency", None)
    return _samples(image)


def _with_transparent_colour(samples: NDArray[Any], header: _PngHeader, trns: bytes) -> NDArray[Any]:
    """Return samples with the alpha that tRNS gives: one colour is fully transparent, all others opaque."""
    count = 1 if header.colour == 0 else 3
    colours = samples[..., :count]
    if len(trns) < 2 * count:
        return colours
    key = np.frombuffer(trns[: 2 * count], ">u2").astype(np.uint32)
    if header.depth < 8:
        key = key * 255 // ((1 << header.depth) - 1)
    white = np.iinfo(samples.dtype).max
    alpha = np.where((colours == key).all(axis=2, keepdims=True), 0, white).astype(samples.dtype)
    return np.concatenate([colours, alpha], axis=2)


def _opencv(data: bytes, name: str, count: int) -> NDArray[Any]:
    """Return 16-bit samples, (height, width, count), as stored: no orientation, no profile, no scaling."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise damaged(name)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == 4 and count == 2:
        return array[..., [0, 3]]
    if array.shape[2] >= 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return array if array.shape[2] == count else array[..., :count]


# WebP, AVIF, BMP


def _webp_size(data: bytes) -> Size:
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    return width, height


def _read_webp(data: bytes, max_pixels: int) -> Decoded:
    # Pillow's decoder takes its canvas while it opens the file, so the size has to be known before.
    limit(*_webp_size(data), max_pixels)
    return _read_simple(data, "webp", max_pixels)


def _avif_size(data: bytes) -> Size:
    """Return the largest of the sizes that an AVIF gives the pictures in it."""
    sizes = []
    at = data.find(b"ispe", 0, 1 << 16)
    while at >= 0:
        sizes.append((int.from_bytes(data[at + 8 : at + 12], "big"), int.from_bytes(data[at + 12 : at + 16], "big")))
        at = data.find(b"ispe", at + 1, 1 << 16)
    return max(sizes, key=math.prod) if sizes else _opened_size(data, "avif")


def _read_avif(data: bytes, max_pixels: int) -> Decoded:
    limit(*_avif_size(data), max_pixels)
    decoded = _read_simple(data, "avif", max_pixels)
    config = data.find(b"av1C", 0, 1 << 16)
    deep = config >= 0 and bool(data[config + 6] & 0x40)
    return replace(decoded, notes=(*decoded.notes, "depth=8")) if deep else decoded


def _read_bmp(data: bytes, max_pixels: int) -> Decoded:
    return _read_simple(data, "bmp", max_pixels)


def _read_simple(data: bytes, name: str, max_pixels: int) -> Decoded:
    image = _open(data, name, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise _animated(name, frames)
    info = image.info
    samples = _samples(image)
    return Decoded(samples, _bytes(info.get("exif")), _bytes(info.get("icc_profile")), _bytes(info.get("xmp")))


# TIFF


def _read_tiff(data: bytes, max_pixels: int) -> Decoded:
    pages = read_pages(data)
    header = pages[0]
    limit(header.width, header.height, max_pixels)
    if len(pages) > 1:
        raise AnimatedImage("The tiff file has more than one page; send a single picture.", field="image")
    problem = header.unsupported()
    if problem:
        raise UnsupportedImage(f"{problem} Save it as 8 or 16 bit grey or RGB.", field="image")
    icc, xmp = header.block(data, 0x8773), header.block(data, 0x02BC)
    exif, notes = _tiff_exif(data)
    if header.depth == 16 and header.photometric != _SEPARATED:
        stored = header.two_samples(data) if header.two_deep else _deep_tiff(data, header)
        samples = turned(stored, header.orientation)
    else:
        image = _open(data, "tiff", max_pixels)
        image.info.pop("xmp", None)  # where the file has no orientation, Pillow would take one from here
        if image.mode in ("CMYK", "LAB"):
            notes += ("color=srgb", "depth=8") if header.depth == 16 else ("color=srgb",)
        samples = _samples(image, icc)  # Pillow turns TIFF upright itself
        icc = None if image.mode in ("CMYK", "LAB") else icc
    return Decoded(samples, exif, icc, xmp, notes, upright=True)


def _deep_tiff(data: bytes, header: TiffHeader) -> NDArray[Any]:
    samples = _opencv(header.without_orientation(data), "tiff", header.samples)
    if header.white_is_zero:
        samples = np.iinfo(np.uint16).max - samples
    if header.samples == 4:
        if header.alpha == "none":
            return samples[..., :3]
        if header.alpha == "premultiplied":
            return _unpremultiplied(samples)
    return samples


def _unpremultiplied(samples: NDArray[Any]) -> NDArray[Any]:
    white = np.iinfo(samples.dtype).max
    result = samples.copy()
    for row in range(samples.shape[0]):
        alpha = samples[row, :, 3:].astype(np.float64)
        colours = samples[row, :, :3] * np.divide(white, alpha, out=np.zeros_like(alpha), where=alpha > 0)
        result[row, :, :3] = np.rint(np.minimum(colours, white))
    return result


def _tiff_exif(data: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the descriptive tags of a TIFF as an EXIF block."""
    try:
        found, block = Image.Exif(), Image.Exif()
        found.load(data)
        for tag in writers.DESCRIPTIVE_TAGS:
            if tag in found and tag != 0x0112:
                block[tag] = found[tag]
        for tag in writers.EXIF_DIRECTORIES:
            inner = dict(found.get_ifd(tag))
            if inner:
                block[tag] = inner
        return (block.tobytes().removeprefix(b"Exif\0\0") if len(block) else None), ()
    except Exception:  # whatever a broken directory makes Pillow raise, the pixels may still be good
        return None, ("exif=dropped",)


def _tiff_size(data: bytes) -> Size:
    header = read_pages(data)[0]
    return header.width, header.height


# Width and height from the header: what a picture will need before any of it is decoded.
SIZES: dict[str, Callable[[bytes], Size]] = {
    "jpeg": lambda data: _jpeg_segments(data).size,
    "png": _png_size,
    "webp": _webp_size,
    "avif": _avif_size,
    "bmp": lambda data: _opened_size(data, "bmp"),
    "tiff": _tiff_size,
}

READERS: dict[str, Callable[[bytes, int], Decoded]] = {
    "jpeg": _read_jpeg,
    "png": _read_png,
    "webp": _read_webp,
    "avif": _read_avif,
    "bmp": _read_bmp,
    "tiff": _read_tiff,
}
