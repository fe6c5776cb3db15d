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
CERTAIN = 8.4 / 255
"""The estimated σ above which noise is told from texture, more and more surely; from half as much again on, always."""
WIENER_SHARE = 0.14
"""What is allowed of a Wiener filter's correction where a picture has texture, below that σ."""
UNSEEN = 2.8 / 255
"""The RMS of a correction that is allowed in any texture, unless it is more than UNSEEN_SHARE of all that is allowed.
Most windows of a picture are limited further by their neighbors, so that clean pictures have more than 42 dB."""
UNSEEN_SHARE = 0.9


def largest_correction(sigma: float) -> float:
    """Return the largest RMS of a correction that `limit_correction` leaves in a window, on the scale of [0, 1]."""
    return sigma * (1 + (sigma / STRONG) ** 2)


def limit_correction(
    image: NDArray[np.float32], denoised: NDArray[np.float32], sigma: float, estimated: float | None = None
) -> NDArray[np.float32]:
    """Return `denoised` with less of its correction where that is more than noise of deviation `sigma`.

    All are float32 (H, W, C) in about [0, 1]. The RMS of the correction in each 9x9 window of the result is at most
    L = `largest_correction(sigma)`, so that 0 returns `image` exactly.

    The correction c = denoised - image is the noise with its sign changed, -n, plus what the denoiser takes for noise,
    t, which is not correlated with n. With the gain g, the error of the result is E|n + g c|² = (1 - g)² σ² + g² |t|²,
    and |c|² = σ² + |t|². It is least for g = σ² / |c|². So, the gain of a pixel is (L / r)², at most 1, where r is the
    largest RMS of c in the windows that contain the pixel: the windows that the result is limited in.

    Where σ was `estimated`, it may be that of a texture, if it is low. A Wiener filter takes away about σ²/a of a
    window whose structure has the deviation a; here a is the geometric mean of that of the window around the pixel and
    of the calmest that contains it, because beside an edge or a star there is no texture. WIENER_SHARE of it is
    allowed, but always UNSEEN: lost texture is seen, and noise that is left in texture is not. This ends above CERTAIN.
    """
    correction = denoised - image
    # A window at the edge has fewer pixels: the mean is over those.
    count = _sum(np.ones(image.shape[:2], np.float32))
    power = _sum(_mean_of_channels(np.square(correction))) / count
    limit: NDArray[np.float32] | np.float32 = np.float32(largest_correction(sigma))
    if estimated is not None and estimated < 1.5 * CERTAIN:
        gray = _mean_of_channels(denoised)
        variance = _sum(np.square(gray)) / count - np.square(_sum(gray) / count)
        structure = np.sqrt(np.maximum(variance, np.float32(1e-12)))
        calmest = cv2.erode(structure, np.ones((WINDOW, WINDOW), np.uint8))
        share = WIENER_SHARE * (1 + (estimated / CERTAIN) ** 8)
        wiener = np.float32(share * estimated * sigma) / np.sqrt(structure * calmest)
        limit = np.minimum(np.maximum(wiener, np.minimum(np.float32(UNSEEN), UNSEEN_SHARE * limit)), limit)
    largest = cv2.dilate(power, np.ones((WINDOW, WINDOW), np.uint8)) / np.maximum(np.square(limit), np.float32(1e-20))
    return np.asarray(image + correction / np.maximum(largest, np.float32(1))[..., None], np.float32)


def _mean_of_channels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means (H, W) of `values` (H, W, C); NumPy's take ten times as long."""
    channels = values.shape[-1]
    return np.asarray(cv2.transform(values, np.full((1, channels), 1 / channels, np.float32)), np.float32)


def _sum(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of `values` (H, W) over the windows around the pixels."""
    return np.asarray(
        cv2.boxFilter(values, cv2.CV_32F, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT)
    )
