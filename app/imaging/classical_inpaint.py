"""Inpainting without a model: Telea, Navier-Stokes and biharmonic, for 8 and 16 bit and any number of channels.

OpenCV's two methods accept 8 bit with one or three channels and 16 bit with one, so others are filled per channel.
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
    """Return `pixels` with the `missing` ones filled; all others are unchanged.

    `pixels` is uint8 or uint16, (height, width, channels), `missing` bool, (height, width); at least one pixel must not
    be missing. `telea`: fast marching (Telea 2004), each pixel from the known ones within `radius` pixels. `ns`:
    continues isophotes as in fluid dynamics (Bertalmio, Bertozzi and Sapiro 2001), with the same radius. `biharmonic`:
    the smoothest surface through the surroundings (Damelin and Hoang 2018); ignores the radius.
    """
    if not missing.any():
        return pixels
    if method == "biharmonic":
        return _fill_biharmonic(pixels, missing)
    flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    hole = missing.view(np.uint8)
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3):
        return np.asarray(cv2.inpaint(np.ascontiguousarray(pixels), hole, radius, flag)).reshape(pixels.shape)
    channels = [
        cv2.inpaint(np.ascontiguousarray(pixels[..., channel]), hole, radius, flag)
        for channel in range(pixels.shape[-1])
    ]
    return np.stack(channels, axis=-1).astype(pixels.dtype, copy=False)


def _fill_biharmonic(pixels: NDArray[Any], missing: Mask) -> NDArray[Any]:
    white = np.iinfo(pixels.dtype).max
    result = inpaint_biharmonic(pixels / white, missing, channel_axis=-1)
    filled = np.rint(np.clip(result, 0, 1) * white).astype(pixels.dtype)
    return np.where(missing[..., None], filled, pixels)
