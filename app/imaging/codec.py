"""Decodes bytes to a `Picture` and encodes it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from app.errors import InvalidField, ServiceError
from app.imaging import color, encoders, exif, resolution, tiff_encoder, xmp
from app.imaging.color_encoding import normalize_encoding
from app.imaging.decoders import DECODERS, SIZE_READERS
from app.imaging.decoders.base import (
    Decoded,
    apply_orientation,
    broken_image,
    check_pixel_count,
)
from app.imaging.formats import FORMATS, Output, choose_format, sniff, why_unsupported
from app.imaging.picture import Metadata, Picture

__all__ = ["Output", "choose_format", "decode", "encode", "list_losses", "measure"]


def measure(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Return (width, height) from the header of a file, as stored: EXIF orientation is not applied.

    Raises UnsupportedImage, TooManyPixels, and BrokenImage if the header cannot be read.
    """
    name = sniff(data)
    with _decoder_errors(name):
        width, height = SIZE_READERS[name](data)
        check_pixel_count(width, height, max_pixels)
        return width, height


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Decode a file of any format in `DECODERS`, which is detected from its first bytes.

    Raises UnsupportedImage, BrokenImage, AnimatedImage, and, before any pixel is decoded, TooManyPixels.
    """
    name = sniff(data)
    with _decoder_errors(name):
        return _to_picture(DECODERS[name](data, max_pixels), name)


@contextmanager
def _decoder_errors(name: str) -> Iterator[None]:
    """Turn any exception but a ServiceError into BrokenImage: decoders raise nearly anything for damaged files."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        raise broken_image(name) from error


def _to_picture(decoded: Decoded, name: str) -> Picture:
    """Apply the orientation, split off alpha, and make the metadata fit the pixels."""
    warnings = decoded.warnings
    orientation, exif_block, packet = None, None, None
    if decoded.exif:
        try:
            orientation, exif_block = exif.clean_exif(decoded.exif)
        except exif.InvalidExif:
            # Viewers apply the orientation of a broken block, too, and no one can once the block is dropped.
            orientation = exif.read_orientation(decoded.exif)
            warnings += ("exif=dropped",)
    if decoded.xmp:
        try:
            packet = xmp.clean_xmp(decoded.xmp)
        except xmp.InvalidXmp:
            warnings += ("xmp=dropped",)
    if orientation is None and packet:
        orientation = packet.orientation
    orientation = 1 if decoded.upright or orientation is None else orientation
    density = decoded.resolution or resolution.read_exif(exif_block)
    if density and orientation >= 5:
        density = density[1], density[0]
    samples = apply_orientation(decoded.samples, orientation)
    channels = 1 if samples.shape[2] < 3 else 3
    pixels = samples[..., :channels]
    alpha = np.ascontiguousarray(samples[..., channels]) if samples.shape[2] > channels else None
    if decoded.icc is None and decoded.encoding is not None:
        pixels, icc, profile_warnings = normalize_encoding(pixels, decoded.encoding)
    else:
        pixels, icc, profile_warnings = color.normalize_profile(pixels, decoded.icc)
    return Picture(
        pixels=np.ascontiguousarray(pixels),
        alpha=alpha,
        metadata=Metadata(
            exif=exif_block,
            icc=icc,
            xmp=packet.packet if packet else None,
            resolution=density,
            xmp_sizes=packet.sizes if packet else (),
        ),
        format=name,
        warnings=warnings + profile_warnings,
    )


def encode(picture: Picture, output: Output) -> tuple[bytes, str]:
    """Return the bytes of `picture` in `output.format` (not `auto`: see `choose_format`) and their content type.

    16 bit is rounded to 8 if the format has no more. Raises InvalidField if the format cannot store the picture.
    """
    name = output.format
    reason = why_unsupported(picture, name)
    if reason:
        raise InvalidField(f"`format={name}` is not possible here: {reason}.", field="format", value=name)
    entry = FORMATS[name]
    metadata, _ = _select_metadata(picture, output)
    samples = picture.pixels
    if picture.alpha is not None:
        samples = np.concatenate([samples, picture.alpha[..., None]], axis=2)
    if samples.dtype == np.uint16 and not entry.supports_16_bit:
        samples = _TO_8_BIT[samples]
    if name == "png":
        data = encoders.encode_png(samples, metadata, picture.palette)
    elif name == "tiff":
        data = tiff_encoder.encode_tiff(samples, metadata)
    elif name == "jpeg":
        data = encoders.encode_jpeg(samples, metadata, output.quality)
    elif name == "webp":
        data = encoders.encode_webp(samples, metadata, output.quality, output.lossless)
    else:
        data = encoders.encode_avif(samples, metadata, output.quality, output.lossless)
    return data, entry.content_type


_TO_8_BIT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def list_losses(picture: Picture, output: Output) -> tuple[str, ...]:
    """Return warnings, as in `Picture.warnings`, about what `output.format` cannot store of `picture`."""
    entry = FORMATS[output.format]
    warnings = [f"{block}=dropped" for block in _select_metadata(picture, output)[1]]
    if picture.pixels.dtype == np.uint16 and not entry.supports_16_bit:
        warnings.append("depth=8")
    return tuple(warnings)


def _select_metadata(picture: Picture, output: Output) -> tuple[Metadata, list[str]]:
    """Return the metadata to write, and the names of the blocks that were asked for but cannot be stored."""
    wanted = picture.metadata
    if output.metadata != "keep":
        wanted = Metadata(icc=wanted.icc if output.metadata == "color" else None)
    kept = wanted
    entry = FORMATS[output.format]
    # AVIF stores gray with alpha as RGB.
    gray = entry.gray and not (output.format == "avif" and picture.alpha is not None)
    if kept.icc and picture.channels == 1 and not gray:
        kept = replace(kept, icc=None)  # a gray profile is invalid for RGB
    if kept.exif:
        try:
            kept = replace(kept, exif=exif.resize_exif(kept.exif, picture.width, picture.height))
        except exif.InvalidExif:
            kept = replace(kept, exif=None)
    if kept.xmp:
        kept = replace(kept, xmp=xmp.resize_xmp(kept.xmp, kept.xmp_sizes, picture.width, picture.height))
    if output.format == "jpeg":
        kept = encoders.drop_oversized_jpeg_metadata(kept)
    elif kept.exif and not encoders.is_exif_writable(kept.exif, output.format):
        kept = replace(kept, exif=None)
    if output.format in ("webp", "avif"):  # they have no field of their own for it
        kept = replace(kept, exif=resolution.write_exif(kept.exif, kept.resolution))
    names = ("exif", "icc", "xmp", "resolution")
    dropped = [name for name in names if getattr(wanted, name) and not getattr(kept, name)]
    return kept, dropped
