"""How well a result agrees with the truth."""

from __future__ import annotations

import numpy as np


def psnr(result: np.ndarray, truth: np.ndarray, peak: float = 255.0) -> float:
    """Return the peak signal-to-noise ratio in dB of two arrays of one shape; infinite where they are equal."""
    error = np.mean(np.square(result.astype(np.float64) - truth.astype(np.float64)))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def psnr_of_error(results: np.ndarray, truths: np.ndarray) -> float:
    """Return the PSNR in dB of the mean squared error over all of `results`, in [0, 1]."""
    return psnr(results, truths, peak=1.0)
