"""Rounding weights to bfloat16 so that what a layer answers changes as little as possible."""

from __future__ import annotations

import numpy as np

DAMPING = 1e-6
"""What is added to the mean square of each input, as a share of their mean, so that all of them together have an
inverse: inputs that are always the same do not."""


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return `values`, finite, each rounded to the nearest that bfloat16 holds, as float32 of the same shape."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)  # halves go to the even neighbor
    return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)


def round_together(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Return `weights` (inputs, outputs) rounded to bfloat16, as float32, for a layer that answers `x @ weights`.

    `moments` (inputs, inputs) are E[x xᵀ]. The weights of one input after the other are rounded, and those that are
    left make up for the error as well as they can, in the mean square of the answer (GPTQ; Frantar et al. 2023, arXiv
    2210.17323). Inputs whose error would be the largest come first.
    """
    energy = np.diag(moments)
    order = np.argsort(-np.square(weights).mean(axis=1) * energy, kind="stable")
    damped = moments[np.ix_(order, order)].astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * energy.mean()
    shares = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weights[order].astype(np.float64)
    rounded = np.empty(left.shape, np.float32)
    for index, row in enumerate(shares):
        rounded[index] = to_bfloat16(left[index])
        error = (left[index] - rounded[index]) / row[index]
        left[index + 1 :] -= np.outer(row[index + 1 :], error)
    result = np.empty_like(rounded)
    result[order] = rounded
    return result
