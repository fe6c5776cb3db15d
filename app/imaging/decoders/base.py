"""What all decoders share: their result, their errors, the pixel limit, and reading through Pillow and OpenCV.

Pillow reads up to 8 bits per sample, OpenCV 16 bits: Pillow silently reduces 16-bit color to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import AnimatedImage, BrokenImage, TooManyPixels, UnsupportedImage
from app.imaging import color
from app.imaging.color_encoding import ColorEncoding

# Sizes are checked here, from the header. Pillow's own limit would only add warnings and errors of another type.
Image.MAX_IMAGE_PIXELS = None

MAX_METADATA_BYTES = 1 << 24
"""Largest EXIF, ICC or XMP block that is read."""
MAX_PARTS = 1 << 17
"""Most segments of a JPEG or chunks of a PNG: each one costs a step, however small it is."""

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Output of a decoder.

    `samples`: uint8 or uint16, (height, width, 1 to 4): gray or RGB, with or without alpha. `exif`, `icc` and `xmp`
    are the blocks as the file has them, or None. `warnings` are `key=value` strings as in `Picture.warnings`.
    `upright` is True if the orientation is already applied. `resolution` is the format's own, in dots per inch of the
    stored picture; if None, that of `exif` is used. `encoding` is what the file names instead of a color profile.
    """

    samples: NDArray[Any]
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    warnings: tuple[str, ...] = ()
    upright: bool = False
    resolution: tuple[float, float] | None = None
    encoding: ColorEncoding | None = None


def broken_image(name: str) -> BrokenImage:
    """Return the error for a file of format `name` that cannot be parsed."""
    return BrokenImage(f"The {name} file is truncated or corrupt; send it again or re-export it.", field="image")


def animated_image(name: str, frames: int) -> AnimatedImage:
    """Return the error for a file of format `name` with more than one frame."""
    return AnimatedImage(f"The {name} file has {frames} frames; send a single picture.", field="image", value=frames)


def check_pixel_count(width: int, height: int, max_pixels: int) -> None:
    """Raise TooManyPixels if width × height exceeds `max_pixels`, ValueError if a side is less than 1."""
    if width < 1 or height < 1:
        raise ValueError("a side is empty")
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The picture has {width} × {height} = {width * height} pixels; the limit is {max_pixels}.",
            field="image",
            value=width * height,
            limit=max_pixels,
        )


def apply_orientation(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a view of `samples`, (height, width, channels), upright; `orientation` is the EXIF value, 1 to 8."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 7, 8):
        samples = samples[:, ::-1] if orientation in (2, 3) else samples[::-1]
    if orientation in (3, 4, 6, 7):
        samples = samples[::-1] if orientation in (3, 4) else samples[:, ::-1]
    return samples


def read_size_with_pillow(data: bytes, name: str) -> Size:
    """Return the size of a file of format `name` as Pillow reads it from the header."""
    with Image.open(BytesIO(data), formats=[name.upper()]) as image:
        return image.size


def open_with_pillow(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Open a file of format `name` without decoding it yet. Raises TooManyPixels."""
    image = Image.open(BytesIO(data), formats=[name.upper()])
    check_pixel_count(*image.size, max_pixels)
    return image


def decode_with_pillow(data: bytes, name: str, max_pixels: int) -> Decoded:
    """Decode a file of format `name`, with its metadata, by Pillow alone. Raises TooManyPixels, AnimatedImage."""
    image = open_with_pillow(data, name, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise animated_image(name, frames)
    info = image.info
    samples = read_samples(image)
    return Decoded(samples, _to_bytes(info.get("exif")), _to_bytes(info.get("icc_profile")), _to_bytes(info.get("xmp")))


def read_samples(image: Image.Image, icc: bytes | None = None) -> NDArray[Any]:
    """Return the samples of a Pillow image of any 8-bit mode: uint8, (height, width, 1 to 4).

    CMYK and LAB are converted to sRGB, through the profile `icc` if it fits. Raises UnsupportedImage for other modes.
    """
    if image.mode in ("CMYK", "LAB"):
        image = color.convert_to_srgb(image, icc)
    elif image.mode in ("P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    elif image.mode in ("RGBa", "La", "YCbCr", "RGBX", "1"):
        image = image.convert({"RGBa": "RGBA", "La": "LA", "1": "L"}.get(image.mode, "RGB"))
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise UnsupportedImage(f"Pictures of mode {image.mode} are not supported; convert to RGB.", field="image")
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def _to_bytes(value: object) -> bytes | None:
    """Return a metadata block from Pillow's `info`, where some are str; None if it is empty."""
    if isinstance(value, str):
        value = value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) and value else None


def decode_16_bit(data: bytes, name: str, count: int) -> NDArray[Any]:
    """Return 16-bit samples, (height, width, count), as stored: no orientation, profile or scaling is applied.

    Raises BrokenImage.
    """
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise broken_image(name)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == 4 and count == 2:
        return array[..., [0, 3]]
    if array.shape[2] >= 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return array if array.shape[2] == count else array[..., :count]


def unpremultiply(samples: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Return (height, width, channels) samples divided by (height, width, 1) alpha; 0 where alpha is."""
    white = np.iinfo(samples.dtype).max
    result = np.empty_like(samples)
    for row in range(samples.shape[0]):
        opacity = alpha[row].astype(np.float64)
        colors = samples[row] * np.divide(white, opacity, out=np.zeros_like(opacity), where=opacity > 0)
        result[row] = np.rint(np.minimum(colors, white))
    return result
