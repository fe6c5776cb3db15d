"""Opacity from probabilities, and foreground colors in soft edges."""

from __future__ import annotations

import numpy as np
import pytest

from app.imaging import matting


@pytest.mark.parametrize(
    ("threshold", "opaque"), [(0.5, [0, 0.5, 1]), (0.9, [0, 0, 1]), (0.0, [1, 1, 1]), (1.0, [0, 0, 1])]
)
def test_alpha_rises_linearly_around_the_threshold(threshold: float, opaque: list[float]) -> None:
    alpha = matting.compute_alpha(np.array([0.0, 0.5, 1.0], np.float32), threshold)
    np.testing.assert_allclose(alpha, opaque, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_hardened_alpha_is_intermediate_only_near_edges(dtype: type) -> None:
    white = np.iinfo(dtype).max
    unsure = np.zeros((60, 200), dtype)
    unsure[:, 40:80] = 0.3 * white  # something behind
    unsure[:, 80:90] = np.linspace(0.3, 0.9, 10) * white
    unsure[:, 90:150] = 0.7 * white  # something in front
    unsure[:, 150:] = white
    found = matting.harden_alpha(unsure, 8)
    assert found.dtype == dtype
    assert (found[:, :70] == 0).all()
    assert (found[:, 100:] == white).all()
    np.testing.assert_array_equal(found[:, 80:90], unsure[:, 80:90])
    for certain in (0, white):
        whole = np.full((30, 30), certain, dtype)
        np.testing.assert_array_equal(matting.harden_alpha(whole, 8), whole)


def test_foreground_colors_of_a_soft_edge() -> None:
    """A red disc on blue with a soft edge: mixed pixels become red, opaque pixels do not change."""
    alpha = np.clip(20 * (0.3 - np.hypot(*(np.mgrid[:120, :120] / 120 - 0.5))) + 0.5, 0, 1).astype(np.float32)
    red, blue = np.array([0.8, 0.1, 0.1], np.float32), np.array([0.1, 0.2, 0.9], np.float32)
    pixels = alpha[..., None] * red + (1 - alpha[..., None]) * blue
    found = matting.estimate_foreground(pixels, alpha, 8)
    edge = (alpha > 0.05) & (alpha < 1)
    assert np.abs(found[edge] - red).max() < 0.05 < np.abs(pixels[edge] - red).max()
    np.testing.assert_array_equal(found[alpha == 1], pixels[alpha == 1])
