"""Detail and feature distance see a blur, which PSNR prefers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.data.packs import Packs
from training.evaluation.metrics import psnr
from training.evaluation.perception import FeatureDistance, detail

pytestmark = pytest.mark.tf


def make_texture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, 40, (120, 160, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 1.0) * 2 - 128, 0, 255).astype(np.uint8)


HOLE = np.zeros((120, 160), bool)
HOLE[40:80, 50:110] = True
TRUTH = make_texture(1)
OTHER = np.where(HOLE[..., None], make_texture(2), TRUTH)
BLUR = np.where(HOLE[..., None], cv2.GaussianBlur(TRUTH, (0, 0), 6), TRUTH)


def test_detail_is_one_for_the_same_texture_and_near_zero_for_a_blur() -> None:
    assert detail(TRUTH, HOLE) == pytest.approx(1, abs=0.1)
    assert detail(OTHER, HOLE) == pytest.approx(1, abs=0.1)
    assert detail(BLUR, HOLE) < 0.1
    assert detail(np.full_like(TRUTH, 90), HOLE) == pytest.approx(1)


@pytest.mark.data
def test_features_prefer_another_sample_of_the_texture_where_psnr_prefers_a_blur(packs: Packs) -> None:
    distance = FeatureDistance(packs)
    assert psnr(BLUR[HOLE], TRUTH[HOLE]) > psnr(OTHER[HOLE], TRUTH[HOLE])
    assert distance(BLUR, TRUTH, HOLE) > distance(OTHER, TRUTH, HOLE)
    assert distance(TRUTH, TRUTH, HOLE) == pytest.approx(0, abs=1e-4)
