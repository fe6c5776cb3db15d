"""The metrics agree with definitions and with scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from training.evaluation.metrics import (
    boundary_f,
    confusion,
    intersection_over_union,
    psnr,
    psnr_of_error,
    ssim,
    y_channel,
)


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black + 255, black) == 0
    assert psnr(black + 1, black) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black) == float("inf")
    assert psnr_of_error(np.full((2, 2), 0.1), np.zeros((2, 2))) == pytest.approx(20)


@pytest.mark.parametrize("color", [False, True])
def test_ssim_is_scikit_images(color: bool) -> None:
    picture = data.astronaut()[100:180, 200:300] if color else data.astronaut()[100:180, 200:300, 1]
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255)
    expected = structural_similarity(
        noisy,
        picture.astype(float),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1 if color else None,
    )
    assert ssim(noisy, picture) == pytest.approx(expected, abs=1e-6)
    assert ssim(picture, picture) == pytest.approx(1)


def test_luma_is_in_studio_range() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    assert y_channel(ends)[0] == pytest.approx([16, 235, 81.481])


def test_confusion_and_iou_of_known_masks() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 255, 1, 1]], np.uint8)
    found = np.array([[0, 1, 1, 1], [2, 2, 0, 1]], np.uint8)
    counts = confusion(found, truth, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert intersection_over_union(counts)[:3] == pytest.approx([1 / 3, 3 / 5, 1])
    assert np.isnan(intersection_over_union(counts)[3])  # neither there nor found: no figure, rather than 0 or 1


def test_boundary_f_forgives_a_few_pixels_and_no_more() -> None:
    truth = np.zeros((60, 60), bool)
    truth[20:40, 20:40] = True
    assert boundary_f(truth, truth) == 1
    assert boundary_f(np.roll(truth, 3, axis=1), truth) == 1
    assert boundary_f(np.roll(truth, 8, axis=1), truth) < 0.7
    assert boundary_f(np.zeros_like(truth), truth) == 0
    assert boundary_f(np.ones_like(truth), np.zeros_like(truth)) == 1  # neither has a boundary
