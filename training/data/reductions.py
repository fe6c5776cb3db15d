"""How large pictures are made small: the literature's bicubic reduction, and what other programs do."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from training.data.imresize import matrix

Reduce = Callable[[np.ndarray, int], np.ndarray]
"""(large uint8 (height, width, 3), scale), sides multiples of the scale -> small uint8."""


def bicubic(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return `picture` reduced as MATLAB's `imresize` does, rounded to 8 bit."""
    height, width = picture.shape[:2]
    rows = matrix(height, height // scale).astype(np.float32)
    columns = matrix(width, width // scale).astype(np.float32)
    wide = np.tensordot(picture.astype(np.float32), columns, (1, 1))
    return np.clip(np.rint(np.tensordot(rows, wide, (1, 0)).transpose(0, 2, 1)), 0, 255).astype(np.uint8)


def area(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return means of `scale` x `scale` pixels."""
    return _opencv(picture, scale, cv2.INTER_AREA)


def lanczos(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return `picture` reduced as Pillow does with LANCZOS."""
    small = Image.fromarray(picture).resize(_size(picture, scale), Image.Resampling.LANCZOS)
    return np.asarray(small)


def blurred(picture: np.ndarray, scale: int, blur: float = 0.4) -> np.ndarray:
    """Return `picture` reduced bicubically after a Gaussian of `blur` small pixels, as a soft lens leaves it."""
    return bicubic(cv2.GaussianBlur(picture, (0, 0), blur * scale), scale)


def unfiltered(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return `picture` reduced by interpolation between four pixels of each axis, whatever lies between them."""
    return _opencv(picture, scale, cv2.INTER_CUBIC)


REDUCTIONS: dict[str, Reduce] = {
    "bicubic": bicubic,
    "area": area,
    "Lanczos": lanczos,
    "none": unfiltered,
    "blur": blurred,
}
"""Those that are measured, by their names in tables."""


def draw(random: np.random.Generator, *, filtered: bool) -> Reduce:
    """Return a reduction other than `bicubic`, with a filter or without."""
    if filtered:
        blur = float(random.uniform(0.2, 0.5))
        kinds: list[Reduce] = [area, lanczos, lambda picture, scale: blurred(picture, scale, blur)]
    else:
        kinds = [unfiltered, unfiltered, _between, _middle, _first]
    return kinds[int(random.integers(len(kinds)))]


def _first(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return the first of `scale` pixels, as OpenCV does with INTER_NEAREST."""
    return np.ascontiguousarray(picture[::scale, ::scale])


def _middle(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return the middle one of `scale` pixels, as Pillow does with NEAREST."""
    return np.ascontiguousarray(picture[scale // 2 :: scale, scale // 2 :: scale])


def _between(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return `picture` reduced by interpolation between two pixels of each axis; two times, that would be `area`."""
    return _opencv(picture, scale, cv2.INTER_LINEAR if scale > 2 else cv2.INTER_CUBIC)


def _opencv(picture: np.ndarray, scale: int, how: int) -> np.ndarray:
    return np.asarray(cv2.resize(picture, _size(picture, scale), interpolation=how))


def _size(picture: np.ndarray, scale: int) -> tuple[int, int]:
    return picture.shape[1] // scale, picture.shape[0] // scale
