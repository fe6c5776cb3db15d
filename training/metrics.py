"""How well a result agrees with the truth."""

from __future__ import annotations

import cv2
import numpy as np


def psnr(result: np.ndarray, truth: np.ndarray, peak: float = 255.0) -> float:
    """Return the peak signal-to-noise ratio in dB of two arrays of one shape; infinite where they are equal."""
    error = np.mean(np.square(result.astype(np.float64) - truth.astype(np.float64)))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def psnr_of_error(results: np.ndarray, truths: np.ndarray) -> float:
    """Return the PSNR in dB of the mean squared error over all of `results`, in [0, 1]."""
    return psnr(results, truths, peak=1.0)


def ssim(result: np.ndarray, truth: np.ndarray, peak: float = 255.0) -> float:
    """Return the structural similarity (Wang et al. 2004) of two (height, width[, channels]) arrays, at least 11x11.

    As the literature on super-resolution has it: an 11x11 Gaussian window of deviation 1.5, only where it lies
    wholly inside the picture; the mean over channels.
    """
    a, b = result.astype(np.float64), truth.astype(np.float64)
    window = cv2.getGaussianKernel(11, 1.5)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(values, -1, window, window)[5:-5, 5:-5]

    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    common = mean(a * b) - mean_a * mean_b
    small, large = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    likeness = (2 * mean_a * mean_b + small) * (2 * common + large)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + small) * (spread_a + spread_b + large))))


def y_channel(rgb: np.ndarray) -> np.ndarray:
    """Return the luma of `rgb` (height, width, 3; 0 to 255) in BT.601's studio range, 16 to 235, float64 (h, w)."""
    return 16 + rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
