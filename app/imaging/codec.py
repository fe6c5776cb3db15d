"""Bytes to `Picture` and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from app.errors import InvalidField, ServiceError
from app.imaging import color, metadata, writers
from app.imaging.formats import FORMATS, Output, choose_format, obstacle, sniff
from app.imaging.picture import Metadata, Picture
from app.imaging.readers import MAX_BLOCK, READERS, SIZES, Decoded, damaged, limit, turned

__all__ = ["Output", "choose_format", "decode", "encode", "losses", "measure"]


def measure(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Return width and height of the picture in `data` as its header has them: as stored, not yet upright.

    Raises UnsupportedImage, TooManyPixels, and BrokenImage for a header that cannot be read.
    """
    name = sniff(data)
    with _broken(name):
        width, height = SIZES[name](data)
        limit(width, height, max_pixels)
        return width, height


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Return the picture in `data`: JPEG, PNG, WebP, TIFF, BMP or AVIF, told by the bytes.

    Raises UnsupportedImage, BrokenImage, AnimatedImage, and TooManyPixels before anything is decoded.
    """
    name = sniff(data)
    with _broken(name):
        return _settle(READERS[name](data, max_pixels), name)


@contextmanager
def _broken(name: str) -> Iterator[None]:
    """Turn whatever a decoder fails with into BrokenImage: for damaged files they raise nearly any exception."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        raise damaged(name) from error


def _settle(decoded: Decoded, name: str) -> Picture:
    """Turn what a reader found upright, and pixels, profile and blocks into what goes together."""
    notes = decoded.notes
    orientation, exif, xmp = 1, None, None
    if decoded.exif:
        try:
            orientation, exif = metadata.clean_exif(decoded.exif)
        except metadata.BrokenBlock:
            # Viewers turn it all the same, and without its block nobody could any more.
            orientation = metadata.orientation_of(decoded.exif)
            notes += ("exif=dropped",)
    if decoded.xmp and len(decoded.xmp) <= MAX_BLOCK:
        xmp = metadata.clean_xmp(decoded.xmp)
    elif decoded.xmp:
        notes += ("xmp=dropped",)
    samples = decoded.samples if decoded.upright else turned(decoded.samples, orientation)
    channels = 1 if samples.shape[2] < 3 else 3
    pixels = samples[..., :channels]
    alpha = np.ascontiguousarray(samples[..., channels]) if samples.shape[2] > channels else None
    pixels, icc, decided = color.settle(pixels, decoded.icc)
    return Picture(
        pixels=np.ascontiguousarray(pixels),
        alpha=alpha,
        metadata=Metadata(exif=exif, icc=icc, xmp=xmp),
        format=name,
        notes=notes + decided,
    )


def encode(picture: Picture, output: Output) -> tuple[bytes, str]:
    """Return the bytes of `picture` in `output.format` (never `auto`: see `choose_format`) and their content type.

    16 bit is rounded to 8 where the format has no more. Raises InvalidField where the format cannot carry the picture.
    """
    name = output.format
    reason = obstacle(picture, name)
    if reason:
        raise InvalidField(f"format={name} is not possible here: {reason}.", field="format", value=name)
    entry = FORMATS[name]
    kept, _ = _metadata_for(picture, output)
    samples = picture.pixels
    if picture.alpha is not None:
        samples = np.concatenate([samples, picture.alpha[..., None]], axis=2)
    if samples.dtype == np.uint16 and not entry.deep:
        samples = _TO_8_BIT[samples]
    if name == "png":
        data = writers.png(samples, kept, picture.palette)
    elif name == "tiff":
        data = writers.tiff(samples, kept)
    elif name == "jpeg":
        data = writers.jpeg(samples, kept, output.quality)
    elif name == "webp":
        data = writers.webp(samples, kept, output.quality, output.lossless)
    else:
        data = writers.avif(samples, kept, output.quality, output.lossless)
    return data, entry.content_type


_TO_8_BIT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def losses(picture: Picture, output: Output) -> tuple[str, ...]:
    """Return notes, as `Picture.notes`, on what `output.format` cannot carry of `picture`."""
    entry = FORMATS[output.format]
    notes = [f"{block}=dropped" for block in _metadata_for(picture, output)[1]]
    if picture.pixels.dtype == np.uint16 and not entry.deep:
        notes.append("depth=8")
    return tuple(notes)


def _metadata_for(picture: Picture, output: Output) -> tuple[Metadata, list[str]]:
    """Return the metadata that goes into the file, and the names of the blocks that the format cannot carry."""
    wanted = picture.metadata
    if output.metadata != "keep":
        wanted = Metadata(icc=wanted.icc if output.metadata == "color" else None)
    kept = wanted
    entry = FORMATS[output.format]
    grey = entry.grey and not (output.format == "avif" and picture.alpha is not None)  # its grey has no transparency
    if kept.icc and picture.channels == 1 and not grey:
        kept = replace(kept, icc=None)  # a profile for grey says nothing about RGB
    if kept.exif:
        try:
            kept = replace(kept, exif=metadata.resize_exif(kept.exif, picture.width, picture.height))
        except metadata.BrokenBlock:
            kept = replace(kept, exif=None)
    if output.format == "jpeg":
        kept = writers.jpeg_holds(kept)
    elif kept.exif and output.format in ("tiff", "avif") and not writers.exif_is_sound(kept.exif):
        kept = replace(kept, exif=None)
    dropped = [name for name in ("exif", "icc", "xmp") if getattr(wanted, name) and not getattr(kept, name)]
    return kept, dropped
