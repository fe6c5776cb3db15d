"""Pixels and metadata as the bytes of a file, one function a format.

PNG and TIFF are written here rather than by a library: none at hand writes all of grey, alpha, 8 and 16 bit together
with EXIF, ICC and XMP, and both are little more than deflate with a header.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from app.imaging.metadata import without_orientation
from app.imaging.picture import Metadata

Palette = Mapping[int, tuple[str, tuple[int, int, int]]]
_STRIP_BYTES = 1 << 20
_JPEG_SEGMENT = 65533
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_CHUNK = _JPEG_SEGMENT - 14
# EXIF tags of the first directory that describe a picture rather than how a file stores it: these, the Exif and the
# GPS directory may move between TIFF and the other formats.
DESCRIPTIVE_TAGS = (
    *(0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749),
    *(0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
)
EXIF_DIRECTORIES = (0x8769, 0x8825)


def full_chroma(quality: int) -> bool:
    """Tell whether colour keeps its full resolution: where the caller asks for quality, it is what is seen first."""
    return quality >= 90


def png(samples: NDArray[Any], metadata: Metadata, palette: Palette | None = None) -> bytes:
    """Return a PNG of `samples`, uint8 or uint16, (height, width, 1 to 4).

    With a `palette` samples are ids: their colours are the file's palette, their names stand in the text `Classes`.
    """
    height, width, count = samples.shape
    colour = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[count]
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, samples.dtype.itemsize * 8, colour, 0, 0, 0))]
    if metadata.icc:
        chunks.append(_chunk(b"iCCP", b"icc\0\0" + zlib.compress(metadata.icc)))
    if metadata.exif:
        chunks.append(_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if palette:
        chunks += _named_colours(palette)
    # Differences to the row above with run-length coding: the speed of OpenCV's writer at its size, in photographs.
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    rows = max(_STRIP_BYTES // (width * count * samples.dtype.itemsize), 1)
    above: NDArray[np.uint8] | None = None
    for top in range(0, height, rows):
        strip = samples[top : top + rows]
        flat = np.ascontiguousarray(strip, strip.dtype.newbyteorder(">")).reshape(strip.shape[0], -1).view(np.uint8)
        filtered = np.empty((flat.shape[0], flat.shape[1] + 1), np.uint8)
        filtered[:, 0] = 2
        filtered[0, 1:] = flat[0] if above is None else flat[0] - above
        np.subtract(flat[1:], flat[:-1], out=filtered[1:, 1:])
        above = flat[-1]
        packed = packer.compress(filtered.data)
        if packed:
            chunks.append(_chunk(b"IDAT", packed))
    chunks += [_chunk(b"IDAT", packer.flush()), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _named_colours(palette: Palette) -> list[bytes]:
    colours = np.zeros((256, 3), np.uint8)
    for number, (_, colour) in palette.items():
        colours[number] = colour
    names = {str(number): name for number, (name, _) in sorted(palette.items())}
    text = b"Classes\0\0\0\0\0" + json.dumps(names, ensure_ascii=False).encode()
    return [_chunk(b"PLTE", colours.tobytes()), _chunk(b"iTXt", text)]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def jpeg(samples: NDArray[np.uint8], metadata: Metadata, quality: int) -> bytes:
    """Return a JPEG of `samples`, (height, width, 1 or 3)."""
    samples = np.ascontiguousarray(samples)
    if samples.shape[2] == 1:
        plain = simplejpeg.encode_jpeg(samples, quality=quality, colorspace="GRAY", colorsubsampling="Gray")
    else:
        subsampling = "444" if full_chroma(quality) else "420"
        plain = simplejpeg.encode_jpeg(samples, quality=quality, colorspace="RGB", colorsubsampling=subsampling)
    segments = []
    if metadata.exif:
        segments.append((0xE1, b"Exif\0\0" + metadata.exif))
    if metadata.xmp:
        segments.append((0xE1, XMP_PREFIX + metadata.xmp))
    if metadata.icc:
        parts = [metadata.icc[i : i + _ICC_CHUNK] for i in range(0, len(metadata.icc), _ICC_CHUNK)]
        segments += [
            (0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part) for number, part in enumerate(parts, 1)
        ]
    begin = 2
    if plain[2:4] == b"\xff\xe0":  # JFIF comes first
        begin += 2 + int.from_bytes(plain[4:6], "big")
    inserted = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return bytes(plain[:begin] + inserted + plain[begin:])


def jpeg_holds(metadata: Metadata) -> Metadata:
    """Return what of `metadata` fits into JPEG's segments of 64 KiB; only a profile may take several."""
    exif, icc, xmp = metadata.exif, metadata.icc, metadata.xmp
    return Metadata(
        exif=exif if exif and len(exif) + 6 <= _JPEG_SEGMENT else None,
        icc=icc if icc and len(icc) <= 255 * _ICC_CHUNK else None,
        xmp=xmp if xmp and len(xmp) + len(XMP_PREFIX) <= _JPEG_SEGMENT else None,
    )


def webp(samples: NDArray[np.uint8], metadata: Metadata, quality: int, lossless: bool) -> bytes:
    """Return a WebP of `samples`, (height, width, 1 to 4); grey is stored as RGB."""
    out = BytesIO()
    # `exact` keeps the colour under full transparency, which the encoder would blacken.
    _image(samples).save(
        out, "WEBP", quality=quality, lossless=lossless, exact=True, method=4 if not lossless else 2, **_kept(metadata)
    )
    return out.getvalue()


def avif(samples: NDArray[np.uint8], metadata: Metadata, quality: int, lossless: bool) -> bytes:
    """Return an AVIF of `samples`, (height, width, 1 to 4). Lossless stores grey with alpha as RGB."""
    if lossless:
        return _lossless_avif(samples, metadata)
    out = BytesIO()
    subsampling = "4:0:0" if samples.shape[2] == 1 else "4:4:4" if full_chroma(quality) else "4:2:0"
    if metadata.exif:  # with an orientation to move into the container Pillow would write the block anew
        metadata = replace(metadata, exif=without_orientation(metadata.exif))
    _image(samples).save(out, "AVIF", quality=quality, subsampling=subsampling, speed=8, **_kept(metadata))
    return out.getvalue()


def _lossless_avif(samples: NDArray[np.uint8], metadata: Metadata) -> bytes:
    """Pillow has no way to ask for the identity matrix, without which AVIF is not lossless; OpenCV uses it."""
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[samples.shape[2]]
    kinds = {
        cv2.IMAGE_METADATA_EXIF: metadata.exif,
        cv2.IMAGE_METADATA_ICCP: metadata.icc,
        cv2.IMAGE_METADATA_XMP: metadata.xmp,
    }
    present = {kind: np.frombuffer(block, np.uint8) for kind, block in kinds.items() if block}
    done, encoded = cv2.imencodeWithMetadata(
        ".avif",
        np.ascontiguousarray(samples[..., order]),
        list(present),
        list(present.values()),
        [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_SPEED, 8],
    )
    if not done:
        raise MemoryError("AVIF encoding failed")
    return encoded.tobytes()


def _image(samples: NDArray[np.uint8]) -> Image.Image:
    samples = np.ascontiguousarray(samples)
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _kept(metadata: Metadata) -> dict[str, bytes]:
    blocks = {"exif": metadata.exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
    return {key: block for key, block in blocks.items() if block}


def tiff(samples: NDArray[Any], metadata: Metadata) -> bytes:
    """Return a TIFF of `samples`, uint8 or uint16, (height, width, 1 to 4), deflated with horizontal differences."""
    height, width, count = samples.shape
    depth = samples.dtype.itemsize
    rows = max(_STRIP_BYTES // (width * count * depth), 1)
    strips = [zlib.compress(strip, 1) for strip in _differences(samples, rows)]
    offsets = np.cumsum([0, *(len(strip) for strip in strips[:-1])])
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if metadata.exif:
        _describe(directory, metadata.exif)
    directory[0x0100], directory[0x0101] = width, height
    directory[0x0102] = (depth * 8,) * count
    directory[0x0103] = 8  # Adobe deflate
    directory[0x0106] = 1 if count < 3 else 2
    directory[0x0115] = count
    directory[0x0116] = rows
    directory[0x011C] = 1
    directory[0x013D] = 2  # horizontal differences
    if count in (2, 4):
        directory[0x0152] = 2  # alpha that is not premultiplied
    directory[0x0153] = (1,) * count
    if metadata.xmp:
        directory[0x02BC] = metadata.xmp
        directory.tagtype[0x02BC] = 1
    if metadata.icc:
        directory[0x8773] = metadata.icc
        directory.tagtype[0x8773] = 7
    directory[0x0117] = tuple(len(strip) for strip in strips)
    directory[0x0111] = tuple(int(offset) for offset in offsets)
    directory.tagtype[0x0117] = directory.tagtype[0x0111] = 4
    out = BytesIO()
    directory.save(out)  # moves the strips' offsets behind the directory
    return b"".join([out.getvalue(), *strips])


def _differences(samples: NDArray[Any], rows: int) -> Iterator[bytes]:
    for top in range(0, samples.shape[0], rows):
        strip = samples[top : top + rows]
        differences = np.empty(strip.shape, strip.dtype.newbyteorder("<"))
        differences[:, :1] = strip[:, :1]
        np.subtract(strip[:, 1:], strip[:, :-1], out=differences[:, 1:], casting="unsafe")
        yield differences.tobytes()


def exif_is_sound(exif: bytes) -> bool:
    """Tell whether Pillow, which TIFF and AVIF go through, can follow a block that `clean_exif` could."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    try:
        _describe(directory, exif)
        directory.tobytes()
    except Exception:  # it raises nearly anything for values of the wrong kind
        return False
    return True


def _describe(directory: TiffImagePlugin.ImageFileDirectory_v2, exif: bytes) -> None:
    """Move the descriptive tags of an EXIF block into a TIFF's directory."""
    block = Image.Exif()
    block.load(exif)
    for tag in DESCRIPTIVE_TAGS:
        if tag in block:
            directory[tag] = block[tag]
    for tag in EXIF_DIRECTORIES:
        inner = dict(block.get_ifd(tag))
        if inner:
            directory[tag] = inner
            directory.tagtype[tag] = 4
