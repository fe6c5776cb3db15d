"""Encodes pixels and metadata as the bytes of a file, one function per format.

PNG, and TIFF in `tiff_encoder`, are written by own code: no available library writes gray, alpha, 8 and 16 bit together
with EXIF, ICC and XMP, and both formats are little more than deflate with a header.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from app.imaging import resolution
from app.imaging.exif import remove_orientation
from app.imaging.picture import Metadata
from app.imaging.tiff_encoder import read_descriptive_entries
from app.imaging.xmp import XMP_PREFIX

Palette = Mapping[int, tuple[str, tuple[int, int, int]]]
_STRIP_BYTES = 1 << 20
_JPEG_SEGMENT_BYTES = 65533
_ICC_PART_BYTES = _JPEG_SEGMENT_BYTES - 14


def keeps_full_chroma(quality: int) -> bool:
    """Tell whether color is stored at full resolution (4:4:4): from quality 90, where subsampling would be visible."""
    return quality >= 90


def encode_png(samples: NDArray[Any], metadata: Metadata, palette: Palette | None = None) -> bytes:
    """Return a PNG of `samples`, uint8 or uint16, (height, width, 1 to 4).

    With a `palette`, id to (name, color), samples are class ids, (height, width, 1): the colors become the file's
    palette, the names a JSON object in the text chunk `Classes`.
    """
    height, width, count = samples.shape
    color_type = 3 if palette else {1: 0, 2: 4, 3: 2, 4: 6}[count]
    chunks = [
        _make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, samples.dtype.itemsize * 8, color_type, 0, 0, 0))
    ]
    if metadata.icc:
        chunks.append(_make_chunk(b"iCCP", b"icc\0\0" + zlib.compress(metadata.icc)))
    density = resolution.make_phys(metadata.resolution)
    if density:
        chunks.append(_make_chunk(b"pHYs", density))
    if metadata.exif:
        chunks.append(_make_chunk(b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append(_make_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    if palette:
        chunks += _make_palette_chunks(palette)
    # Filter "up" with run-length coding: as fast and as small as OpenCV's encoder on photographs.
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
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
        packed = compressor.compress(filtered.data)
        if packed:
            chunks.append(_make_chunk(b"IDAT", packed))
    chunks += [_make_chunk(b"IDAT", compressor.flush()), _make_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _make_palette_chunks(palette: Palette) -> list[bytes]:
    """Return the chunks with the colors and the names of a palette."""
    colors = np.zeros((256, 3), np.uint8)
    for number, (_, color) in palette.items():
        colors[number] = color
    names = {str(number): name for number, (name, _) in sorted(palette.items())}
    text = b"Classes\0\0\0\0\0" + json.dumps(names, ensure_ascii=False).encode()
    return [_make_chunk(b"PLTE", colors.tobytes()), _make_chunk(b"iTXt", text)]


def _make_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def encode_jpeg(samples: NDArray[np.uint8], metadata: Metadata, quality: int) -> bytes:
    """Return a JPEG of `samples`, uint8, (height, width, 1 or 3); `quality` is 1 to 100."""
    samples = np.ascontiguousarray(samples)
    if samples.shape[2] == 1:
        plain = simplejpeg.encode_jpeg(samples, quality=quality, colorspace="GRAY", colorsubsampling="Gray")
    else:
        subsampling = "444" if keeps_full_chroma(quality) else "420"
        plain = simplejpeg.encode_jpeg(samples, quality=quality, colorspace="RGB", colorsubsampling=subsampling)
    plain = resolution.write_jfif(plain, metadata.resolution)
    segments = []
    if metadata.exif:
        segments.append((0xE1, b"Exif\0\0" + metadata.exif))
    if metadata.xmp:
        segments.append((0xE1, XMP_PREFIX + metadata.xmp))
    if metadata.icc:
        parts = [metadata.icc[i : i + _ICC_PART_BYTES] for i in range(0, len(metadata.icc), _ICC_PART_BYTES)]
        segments += [
            (0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part) for number, part in enumerate(parts, 1)
        ]
    insert_at = 2
    if plain[2:4] == b"\xff\xe0":  # the JFIF segment must come first
        insert_at += 2 + int.from_bytes(plain[4:6], "big")
    inserted = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return bytes(plain[:insert_at] + inserted + plain[insert_at:])


def drop_oversized_jpeg_metadata(metadata: Metadata) -> Metadata:
    """Return the metadata that fit into JPEG: segments of 64 KiB, of which only a color profile may span several, and
    a resolution of at most 65535."""
    exif, icc, xmp, density = metadata.exif, metadata.icc, metadata.xmp, metadata.resolution
    return Metadata(
        exif=exif if exif and len(exif) + 6 <= _JPEG_SEGMENT_BYTES else None,
        icc=icc if icc and len(icc) <= 255 * _ICC_PART_BYTES else None,
        xmp=xmp if xmp and len(xmp) + len(XMP_PREFIX) <= _JPEG_SEGMENT_BYTES else None,
        resolution=density if density and resolution.fits_jfif(density) else None,
    )


def encode_webp(samples: NDArray[np.uint8], metadata: Metadata, quality: int, lossless: bool) -> bytes:
    """Return a WebP of `samples`, uint8, (height, width, 1 to 4); gray is stored as RGB; `quality` is 1 to 100."""
    out = BytesIO()
    # `exact` keeps the color of fully transparent pixels, which the encoder would set to black.
    _to_pillow(samples).save(
        out,
        "WEBP",
        quality=quality,
        lossless=lossless,
        exact=True,
        method=4 if not lossless else 2,
        **_make_pillow_options(metadata),
    )
    return out.getvalue()


def encode_avif(samples: NDArray[np.uint8], metadata: Metadata, quality: int, lossless: bool) -> bytes:
    """Return an AVIF of `samples`, uint8, (height, width, 1 to 4); `quality` is 1 to 100.

    Lossless stores gray with alpha as RGB. Raises MemoryError if lossless encoding fails.
    """
    if lossless:
        return _encode_lossless_avif(samples, metadata)
    out = BytesIO()
    subsampling = "4:0:0" if samples.shape[2] == 1 else "4:4:4" if keeps_full_chroma(quality) else "4:2:0"
    if metadata.exif:  # Pillow would rewrite a block with an orientation
        metadata = replace(metadata, exif=remove_orientation(metadata.exif))
    _to_pillow(samples).save(
        out, "AVIF", quality=quality, subsampling=subsampling, speed=8, **_make_pillow_options(metadata)
    )
    return out.getvalue()


def _encode_lossless_avif(samples: NDArray[np.uint8], metadata: Metadata) -> bytes:
    """Encode with OpenCV: AVIF is lossless only with the identity matrix, which Pillow cannot be asked for."""
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[samples.shape[2]]
    kinds = {
        cv2.IMAGE_METADATA_EXIF: metadata.exif,
        cv2.IMAGE_METADATA_ICCP: metadata.icc,
        cv2.IMAGE_METADATA_XMP: metadata.xmp,
    }
    present = {kind: np.frombuffer(block, np.uint8) for kind, block in kinds.items() if block}
    succeeded, encoded = cv2.imencodeWithMetadata(
        ".avif",
        np.ascontiguousarray(samples[..., order]),
        list(present),
        list(present.values()),
        [cv2.IMWRITE_AVIF_QUALITY, 100, cv2.IMWRITE_AVIF_SPEED, 8],
    )
    if not succeeded:
        raise MemoryError("AVIF encoding failed")
    return encoded.tobytes()


def _to_pillow(samples: NDArray[np.uint8]) -> Image.Image:
    samples = np.ascontiguousarray(samples)
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)


def _make_pillow_options(metadata: Metadata) -> dict[str, bytes]:
    blocks = {"exif": metadata.exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
    return {key: block for key, block in blocks.items() if block}


def is_exif_writable(exif: bytes, name: str) -> bool:
    """Tell whether a block that comes from `clean_exif` can be written as format `name`, where it is read again."""
    try:
        if name == "tiff":
            read_descriptive_entries(exif)
        elif name == "avif":
            Image.Exif().load(exif)
    except Exception:  # Pillow raises nearly any exception for values of the wrong type
        return False
    return True
