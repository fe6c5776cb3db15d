"""Holes take the share of a picture that was asked for, and the same generator draws the same ones."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.holes import BINS, holes, scratches

ROUND = np.hypot(*np.mgrid[-20:21, -15:16]) < 15


@pytest.mark.parametrize("share", BINS)
@pytest.mark.parametrize("size", [(64, 64), (100, 180)])
@pytest.mark.parametrize("silhouettes", [(), (ROUND,)])
def test_as_much_is_missing_as_was_asked_for(
    size: tuple[int, int], share: tuple[float, float], silhouettes: tuple[np.ndarray, ...]
) -> None:
    for seed in range(20):
        missing = holes(size, share, np.random.default_rng(seed), silhouettes)
        assert missing.dtype == bool
        assert missing.shape == size
        assert share[0] <= missing.mean() <= share[1]
        np.testing.assert_array_equal(missing, holes(size, share, np.random.default_rng(seed), silhouettes))


def test_scratches_are_thin_and_long() -> None:
    import cv2

    missing = scratches((300, 400), 12, np.random.default_rng(0))
    assert 0.005 < missing.mean() < 0.1
    alone = [scratches((300, 400), 1, np.random.default_rng(seed)).view(np.uint8) for seed in range(10)]
    assert not any(cv2.erode(one, np.ones((8, 8), np.uint8)).any() for one in alone)
    assert max(np.ptp(np.argwhere(one), axis=0).max() for one in alone) > 90
