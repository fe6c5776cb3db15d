from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

pytestmark = pytest.mark.tf

COFFEE = skimage.data.coffee()[:256, :256]
SOFT = cv2.GaussianBlur(COFFEE, (0, 0), 2)
GRAY_WEIGHTS = (0.299, 0.587, 0.114)
NOISY = np.clip(COFFEE + np.random.default_rng(0).normal(0, 10, COFFEE.shape), 0, 255).astype(np.uint8)


def test_noise_is_counted_in_flat_places() -> None:
    from training.evaluation.real_enlarging import noise

    clean, noisy = noise(COFFEE, SOFT), noise(NOISY, SOFT)
    assert clean > noise(SOFT, SOFT)
    # Independent of what is there: their squares add up, but for what the blur of the bands takes.
    assert np.sqrt(noisy**2 - clean**2) == pytest.approx(10 * np.sqrt(np.square(GRAY_WEIGHTS).sum()), rel=0.15)


def test_noise_of_worn_pictures_is_counted_where_the_original_is_flat() -> None:
    from training.evaluation.real_enlarging import flat_noise

    half = COFFEE.copy()
    half[:, :128] = 90  # the rest has texture everywhere
    assert flat_noise([half], [half]) < 1
    noisy = np.clip(half + np.random.default_rng(0).normal(0, 10, half.shape), 0, 255).astype(np.uint8)
    assert flat_noise([noisy], [half]) == pytest.approx(10 * np.sqrt(np.square(GRAY_WEIGHTS).sum()), rel=0.1)


def test_edges_of_a_soft_picture_are_less_steep() -> None:
    from training.evaluation.real_enlarging import sharpness

    assert sharpness(COFFEE, SOFT) > 1.5 * sharpness(SOFT, SOFT)


def test_detail_is_compared_with_the_clean_picture() -> None:
    from training.evaluation.real_enlarging import detail_energy

    assert detail_energy(COFFEE, COFFEE) == pytest.approx(1)
    assert detail_energy(SOFT, COFFEE) < 0.5
    assert detail_energy(NOISY, COFFEE) > 2
