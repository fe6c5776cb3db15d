"""The limit of a denoiser's correction, as the service has it (`app/imaging/limiter.py`, which this may not import)."""

from __future__ import annotations

import cv2
import numpy as np

WINDOW = (9, 9)
STRONG = 20 / 255


def limit_correction(image: np.ndarray, denoised: np.ndarray, sigma: float) -> np.ndarray:
    """Return `denoised` with less of its correction where that is more than noise of deviation `sigma`.

    All are float32 (H, W, C) in about [0, 1]. The RMS of the correction in each 9x9 window of the result is at most
    sigma (1 + (sigma / (20/255))²); the service's own has the derivation.
    """
    correction = denoised - image
    power = np.mean(np.square(correction), axis=-1)

    def total(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, cv2.CV_32F, WINDOW, normalize=False, borderType=cv2.BORDER_CONSTANT)

    largest = cv2.dilate(total(power) / total(np.ones_like(power)), np.ones(WINDOW, np.uint8))
    allowed = np.float32((sigma * (1 + (sigma / STRONG) ** 2)) ** 2)
    gain = allowed / np.maximum(np.maximum(largest, allowed), np.float32(1e-20))
    return np.asarray(image + correction * gain[..., None], np.float32)
