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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_bands_along_edges_are_uncertain(dtype: type) -> None:
    white = np.iinfo(dtype).max
    alpha = np.zeros((40, 120), dtype)
    alpha[:, 30:] = white  # an edge of one pixel
    alpha[:, 80:90] = white // 2
    marked = matting.mark_edges(alpha, 4)
    unsure = (marked > 0) & (marked < white)
    assert unsure[:, 26:34].all()
    assert unsure[:, 76:94].all()
    assert not unsure[:, :25].any()
    assert (marked[:, 40:70] == white).all()
    assert (matting.mark_edges(np.full_like(alpha, white), 4) == white).all()


def test_opacity_is_refined_by_the_colors_on_both_sides() -> None:
    """A network that is a few pixels off, and colors that tell where the edge is."""
    truth = np.clip((np.arange(80) - 38) / 4, 0, 1).astype(np.float32)[None].repeat(60, 0)
    red, blue = np.array([0.8, 0.1, 0.1], np.float32), np.array([0.1, 0.2, 0.9], np.float32)
    image = truth[..., None] * red + (1 - truth[..., None]) * blue
    image += np.random.default_rng(0).normal(0, 0.01, image.shape).astype(np.float32)
    guess = np.clip((np.arange(80) - 33) / 8, 0, 1).astype(np.float32)[None].repeat(60, 0)
    guess[:, 28:52] = np.clip(guess[:, 28:52], 0.02, 0.98)
    front, back = np.broadcast_to(red, image.shape), np.broadcast_to(blue, image.shape)
    found = matting.refine_opacity(image, guess, front, back, 3)
    assert np.abs(found - truth).max() < 0.06 < np.abs(guess - truth).max()
    same = matting.refine_opacity(image, guess, front, front, 3)  # colors say nothing
    assert np.abs(same - guess)[:, 40:].mean() < 0.1


def test_shrinking_moves_edges_inwards_but_not_the_borders_of_the_picture() -> None:
    alpha = np.zeros((30, 60), np.uint8)
    alpha[:, 20:] = 255
    shrunk = matting.shrink_alpha(alpha, 3)
    assert (shrunk[:, :23] == 0).all()
    assert (shrunk[:, 23:] == 255).all()
    assert matting.shrink_alpha(alpha, 0) is alpha
