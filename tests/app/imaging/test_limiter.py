"""A denoiser takes away no more than the noise can be: exactly nothing at 0, and less where there is texture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from app.imaging.limiter import REACH, UNSEEN, largest_correction, limit_correction


def noise(sigma: float, shape: tuple[int, int] = (64, 80), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, (*shape, 3)).astype(np.float32)


def largest_rms(correction: np.ndarray) -> float:
    """Return the largest root mean square of `correction` in the 9x9 windows inside it."""
    power = np.square(correction.astype(np.float64)).mean(axis=-1)
    return float(np.sqrt(cv2.blur(power, (9, 9))[4:-4, 4:-4].max()))


def test_no_noise_is_no_correction_whatever_the_denoiser_says() -> None:
    image = noise(0.2) + 0.5
    np.testing.assert_array_equal(limit_correction(image, np.zeros_like(image), 0.0), image)
    np.testing.assert_array_equal(limit_correction(image, image, 0.0), image)


def test_noise_of_the_level_told_is_removed_almost_whole() -> None:
    sigma = 20 / 255
    found = noise(sigma)
    clean = np.full_like(found, 0.5)
    left = limit_correction(clean + found, clean, sigma) - clean
    assert left.std() < 0.03 * sigma


@pytest.mark.parametrize("sigma", [0.004, 0.02, 0.1])
def test_no_window_is_corrected_by_more_than_the_limit(sigma: float) -> None:
    image = noise(0.2) + 0.5
    denoised = image + noise(0.05, seed=1)
    denoised[:20] += 0.3
    limited = limit_correction(image, denoised, sigma)
    assert largest_rms(limited - image) <= largest_correction(sigma) * 1.001
    assert limited.dtype == np.float32


def test_lost_texture_comes_back_and_flat_parts_stay_denoised() -> None:
    sigma = 5 / 255
    clean = np.full((64, 128, 3), 0.5, np.float32)
    clean[:, 64:] += noise(25 / 255, (64, 64), seed=1)  # a texture that the denoiser takes for noise
    image = clean + noise(sigma, (64, 128))
    limited = limit_correction(image, np.full_like(image, 0.5), sigma)
    flat, textured = limited[:, : 64 - REACH], limited[:, 64:]
    assert (flat - 0.5).std() < 0.1 * sigma
    # Hardly worse than the noisy picture, where the denoiser alone would be five times as bad.
    assert (textured - clean[:, 64:]).std() < 1.1 * sigma


@pytest.mark.parametrize(("estimated", "spared"), [(5 / 255, True), (15 / 255, False), (None, False)])
def test_an_estimate_that_may_be_texture_spares_texture(estimated: float | None, spared: bool) -> None:
    """In flat parts noise of that level is removed all the same."""
    sigma = 8 / 255
    clean = np.full((64, 128, 3), 0.5, np.float32)
    clean[:, 64:] += 0.2 * np.sin(np.arange(64))[None, :, None].astype(np.float32)
    image = clean + noise(sigma, (64, 128))
    correction = limit_correction(image, clean, sigma, estimated) - image
    flat, textured = correction[:, : 64 - REACH], correction[:, 64 + REACH :]
    assert flat.std() > 0.9 * sigma
    assert (largest_rms(textured) <= UNSEEN * 1.001) == spared


def test_an_estimate_leaves_no_grain_around_a_star() -> None:
    sigma = 5 / 255
    clean = np.full((65, 65, 3), 0.1, np.float32)
    clean[32, 32] = 1.0
    image = clean + noise(sigma, (65, 65))
    left = limit_correction(image, clean, sigma, sigma) - clean
    # Of the ring around the star, without its own pixel.
    assert left[26:30, 26:39].std() < 0.4 * sigma


def test_strong_noise_may_be_stronger_in_places() -> None:
    """A camera's noise is stronger in the dark."""
    for sigma, share in ((2 / 255, 1.0), (20 / 255, 2.0)):
        assert largest_correction(sigma) == pytest.approx(share * sigma, rel=0.02)


def test_a_pixel_depends_on_those_within_reach_only() -> None:
    image = noise(0.1) + 0.5
    denoised = image + noise(0.05, seed=1)
    whole = limit_correction(image, denoised, 0.02)
    part = limit_correction(image[20:], denoised[20:], 0.02)
    np.testing.assert_allclose(part[REACH:], whole[20 + REACH :], atol=1e-6)
    assert np.abs(part[0] - whole[20]).max() > 1e-4


def test_one_channel_and_pictures_smaller_than_a_window() -> None:
    image = noise(0.1, (3, 5))[..., :1] + 0.5
    limited = limit_correction(image, np.zeros_like(image), 0.01)
    assert limited.shape == (3, 5, 1)
    assert 0 < np.abs(limited - image).max() < 0.02
