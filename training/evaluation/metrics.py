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


def confusion(result: np.ndarray, truth: np.ndarray, classes: int, void: int = 255) -> np.ndarray:
    """Return the counts int64 (classes, classes) of pixels by true (row) and found (column) class, `void` left out."""
    known = truth != void
    pairs = truth[known].astype(np.int64) * classes + result[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """Return the IoU of each class from `confusion`'s counts, NaN for a class that is neither there nor found."""
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def boundary_f(result: np.ndarray, truth: np.ndarray, tolerance: int = 3) -> float:
    """Return the F measure of the boundary of a mask: what lies within `tolerance` pixels of the other's boundary.

    After Martin et al. 2004, without its assignment of pixel to pixel. Two masks without a boundary agree: 1.
    """
    edges = [_boundary(np.asarray(mask, bool)) for mask in (result, truth)]
    if not edges[0].any() and not edges[1].any():
        return 1.0
    if not edges[0].any() or not edges[1].any():
        return 0.0
    distances = [cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for edge in edges]
    precision = float((distances[1][edges[0]] <= tolerance).mean())
    recall = float((distances[0][edges[1]] <= tolerance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of `mask` that touch what is not in it; the picture's border is none."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
