"""The limit of a denoiser's correction, as the service has it (`app/imaging/limiter.py`, which this may not import)."""

from __future__ import annotations

import cv2
import numpy as np

WINDOW = (9, 9)
STRONG = 20 / 255
CERTAIN = 8.4 / 255
WIENER_SHARE = 0.14
UNSEEN = 2.8 / 255
UNSEEN_SHARE = 0.9


def limit_correction(
    image: np.ndarray, denoised: np.ndarray, sigma: float, estimated: float | None = None
) -> np.ndarray:
    """Return `denoised` with less of its correction where that is more than noise of deviation `sigma`.

    All are float32 (H, W, C) in about [0, 1]. The RMS of the correction in each 9x9 window of the result is at most
    sigma (1 + (sigma / (20/255))²), and where the level was `estimated` to be low, less in texture; the service's own
    has the derivation.
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, WINDOW, borderType=cv2.BORDER_CONSTANT) / inside

    inside = cv2.blur(np.ones(image.shape[:2], np.float32), WINDOW, borderType=cv2.BORDER_CONSTANT)
    correction = denoised - image
    allowed = sigma * (1 + (sigma / STRONG) ** 2)
    limit = np.full(image.shape[:2], allowed, np.float32)
    if estimated is not None and estimated < 1.5 * CERTAIN:
        gray = denoised.mean(axis=-1)
        structure = np.sqrt(np.maximum(mean(gray**2) - mean(gray) ** 2, 1e-12))
        structure = np.sqrt(structure * cv2.erode(structure, np.ones(WINDOW, np.uint8)))
        share = WIENER_SHARE * (1 + (estimated / CERTAIN) ** 8)
        limit = np.minimum(
            limit, np.maximum(share * estimated * sigma / structure, min(UNSEEN, UNSEEN_SHARE * allowed))
        )
    power = mean(np.mean(np.square(correction), axis=-1))
    largest = cv2.dilate(power, np.ones(WINDOW, np.uint8)) / np.maximum(limit**2, 1e-20)
    return np.asarray(image + correction / np.maximum(largest, 1)[..., None], np.float32)
