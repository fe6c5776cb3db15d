"""Limit what a denoiser takes away to as much as the noise can be."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 9
"""Pixels a side of the windows in which the correction is compared with the noise."""
STRONG = 20 / 255
"""The σ at which twice σ is allowed. Strong noise of cameras is stronger in the dark than σ, its mean over the picture,
and there is little texture that would be stronger still."""
REACH = WINDOW - 1
"""Pixels from a pixel to the farthest that its limit depends on."""


def largest_correction(sigma: float) -> float:
    """Return the largest RMS of a correction that `limit_correction` leaves in a window, on the scale of [0, 1]."""
    return sigma * (1 + (sigma / STRONG) ** 2)


def limit_correction(image: NDArray[np.float32], denoised: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return `denoised` with less of its correction where that is more than noise of deviation `sigma`.

    All are float32 (H, W, C) in about [0, 1]. The RMS of the correction in each 9x9 window of the result is at most
    L = `largest_correction(sigma)`, so that 0 returns `image` exactly.

    The correction c = denoised - image is the noise with its sign changed, -n, plus what the denoiser takes for noise,
    t, which is not correlated with n. With the gain g, the error of the result is E|n + g c|² = (1 - g)² σ² + g² |t|²,
    and |c|² = σ² + |t|². It is least for g = σ² / |c|². So, the gain of a pixel is (L / r)², at most 1, where r is the
    largest RMS of c in the windows that contain the pixel: the windows that the result is limited in.
    """
    correction = denoised - image
    power = np.mean(np.square(correction), axis=-1)
    shape = (WINDOW, WINDOW)
    # A window at the edge has fewer pixels: the mean is over those.
    total = cv2.boxFilter(power, cv2.CV_32F, shape, normalize=False, borderType=cv2.BORDER_CONSTANT)
    count = cv2.boxFilter(np.ones_like(power), cv2.CV_32F, shape, normalize=False, borderType=cv2.BORDER_CONSTANT)
    largest = cv2.dilate(total / count, np.ones(shape, np.uint8))
    allowed = np.float32(largest_correction(sigma) ** 2)
    gain = allowed / np.maximum(np.maximum(largest, allowed), np.float32(1e-20))
    return np.asarray(image + correction * gain[..., None], np.float32)
