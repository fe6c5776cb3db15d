"""Inpainting without a model: Telea, Navier-Stokes and biharmonic, for every kind of picture.

OpenCV's two take 8 bit of one or three channels and 16 bit of one, so that colour of 16 bit goes channel by channel.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.restoration import inpaint_biharmonic

from app.imaging.holes import Mask

Method = Literal["telea", "ns", "biharmonic"]


def fill(pixels: NDArray[Any], missing: Mask, method: Method, radius: int = 3) -> NDArray[Any]:
    """Return `pixels` (height, width, channels), uint8 or uint16, with what is `missing` (height, width) made up.

    `telea`: fast marching (Telea 2004), each pixel from what is known within `radius`. `ns`: isophotes carried on as
    in a fluid (Bertalmio, Bertozzi and Sapiro 2001), the same radius. `biharmonic`: the smoothest surface through
    what is around (Damelin and Hoang 2018), which knows no radius. Other pixels come back as they are. Something must
    be known.
    """
    if not missing.any():
        return pixels
    if method == "biharmonic":
        return _biharmonic(pixels, missing)
    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    hole = missing.view(np.uint8)
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3):
        return np.asarray(cv2.inpaint(np.ascontiguousarray(pixels), hole, radius, flag)).reshape(pixels.shape)
    bands = [
        cv2.inpaint(np.ascontiguousarray(pixels[..., band]), hole, radius, flag) for band in range(pixels.shape[-1])
    ]
    return np.stack(bands, axis=-1).astype(pixels.dtype, copy=False)


def _biharmonic(pixels: NDArray[Any], missing: Mask) -> NDArray[Any]:
    white = np.iinfo(pixels.dtype).max
    found = inpaint_biharmonic(pixels / white, missing, channel_axis=-1)
    filled = np.rint(np.clip(found, 0, 1) * white).astype(pixels.dtype)
    return np.where(missing[..., None], filled, pixels)
