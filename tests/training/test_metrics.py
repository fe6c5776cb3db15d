"""The metrics agree with definitions and with scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from skimage.metrics import structural_similarity

from training.metrics import psnr, psnr_of_error, ssim, y_channel


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black + 255, black) == 0
    assert psnr(black + 1, black) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black) == float("inf")
    assert psnr_of_error(np.full((2, 2), 0.1), np.zeros((2, 2))) == pytest.approx(20)


@pytest.mark.parametrize("colour", [False, True])
def test_ssim_is_scikit_images(colour: bool) -> None:
    picture = data.astronaut()[100:180, 200:300] if colour else data.astronaut()[100:180, 200:300, 1]
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255)
    expected = structural_similarity(
        noisy,
        picture.astype(float),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1 if colour else None,
    )
    assert ssim(noisy, picture) == pytest.approx(expected, abs=1e-6)
    assert ssim(picture, picture) == pytest.approx(1)


def test_luma_is_in_studio_range() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    assert y_channel(ends)[0] == pytest.approx([16, 235, 81.481])
