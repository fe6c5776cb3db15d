"""The canvas of a painting: the picture at the size at which it is painted, and the painting at the picture's size.

A network paints strokes of a few pixels. On a canvas of a fixed size they have the same size in a thumbnail and in a
picture of 24 megapixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from app.imaging.color import LUMINANCE
from app.imaging.guided_filter import box_mean, split_rows, upsample_rows
from app.imaging.picture import Floats, Picture
from app.tasks.base import Size

LONG_SIDE = 512
"""The longer side of the canvas, in pixels, for strokes of size 1."""
MAX_ENLARGEMENT = 4
"""A small picture is enlarged at most so many times to be painted."""
RADIUS, EPSILON = 4, 1e-3
"""Windows of the guided filter have 2 RADIUS + 1 pixels of the canvas; less variance than EPSILON counts as flat."""


def canvas_size(size: Size, stroke_size: float) -> Size:
    """Return the size at which a picture of `size` is painted with strokes of `stroke_size`."""
    factor = min(LONG_SIDE / stroke_size / max(size), MAX_ENLARGEMENT)
    return Size(*(max(1, round(side * factor)) for side in size))


def make_canvas(picture: Picture, size: Size) -> Picture:
    """Return `picture` at `size`, uint16 and without alpha, so that no steps come from its rounding."""
    wide = picture.pixels.astype(np.uint16) * np.uint16(65535 // picture.maximum)
    how = cv2.INTER_AREA if size.width <= picture.width and size.height <= picture.height else cv2.INTER_CUBIC
    return Picture(np.atleast_3d(cv2.resize(wide, size, interpolation=how)))


def finish_painting(
    picture: Picture, canvas: Picture, painted: NDArray[np.uint16], strength: float, *, preserve_color: bool
) -> NDArray[Any]:
    """Return the pixels of the painting at the size and depth of `picture`, mixed with it.

    `painted` is `canvas` after the network, both uint16 (height, width, channels) of another size than the picture.
    Where the canvas is smaller, the details that it lost come from the picture's luminance, as much as the painting
    follows it: the slope of the guided filter (He et al. 2010). `strength` is the share of the painting; with
    `preserve_color`, the picture keeps its colors.
    """
    size, white = (picture.height, picture.width), np.float32(picture.maximum)
    shrunk = canvas.height * canvas.width < size[0] * size[1]
    large = None if shrunk else _resize(painted, size)
    layers = _split_details(canvas, painted) if shrunk else None
    result = np.empty_like(picture.pixels)
    for rows in split_rows(*size):
        own = picture.pixels[rows].astype(np.float32) / white
        if layers is None:
            assert large is not None
            found = large[rows]
        else:
            base, slopes = (
                np.stack([upsample_rows(layer[..., i], rows, size) for i in range(layer.shape[-1])], axis=-1)
                for layer in layers
            )
            found = base + slopes * _luminance(own)
        if preserve_color:
            found = keep_colors(own, found)
        result[rows] = np.rint(np.clip(own + np.float32(strength) * (np.clip(found, 0, 1) - own), 0, 1) * white)
    return result


def keep_colors(picture: Floats, painted: Floats) -> Floats:
    """Return `picture` with the luminance of `painted`; both (…, channels), in [0, 1]."""
    if painted.shape[-1] == 1:
        return painted
    return np.asarray(picture + ((np.clip(painted, 0, 1) - picture) @ LUMINANCE)[..., None], np.float32)


def _split_details(canvas: Picture, painted: NDArray[np.uint16]) -> tuple[Floats, Floats]:
    """Return the painting without what follows the canvas's luminance, and by how much it follows: (h, w, channels)."""
    light = _luminance(canvas.pixels.astype(np.float32) / np.float32(65535))
    painting = painted.astype(np.float32) / np.float32(65535)

    mean_light = box_mean(light, RADIUS)
    variance = box_mean(light * light, RADIUS) - mean_light**2
    slopes = (box_mean(light * painting, RADIUS) - mean_light * box_mean(painting, RADIUS)) / (
        variance + np.float32(EPSILON)
    )
    # A painting that is dark where the picture is bright must not turn details into their negative.
    slopes = np.clip(box_mean(slopes, RADIUS), 0, 1)
    return np.asarray(painting - slopes * light, np.float32), np.asarray(slopes, np.float32)


def _luminance(pixels: Floats) -> Floats:
    """Return the luminance of (height, width, channels) as (height, width, 1)."""
    return pixels if pixels.shape[-1] == 1 else np.asarray((pixels @ LUMINANCE)[..., None], np.float32)


def _resize(painted: NDArray[np.uint16], size: tuple[int, int]) -> Floats:
    resized = cv2.resize(painted, size[::-1], interpolation=cv2.INTER_AREA)
    return np.atleast_3d(resized).astype(np.float32) / np.float32(65535)
