from __future__ import annotations

import numpy as np
import pytest
import skimage.data

from training.data.camera import to_gray
from training.data.worn import wear

ASTRONAUT = skimage.data.astronaut()[:192, :160]


@pytest.mark.parametrize("scale", [1, 4])
def test_a_worn_picture_is_small_and_still_the_same(scale: int) -> None:
    usual = ASTRONAUT.reshape(192 // scale, scale, 160 // scale, scale, 3).mean(axis=(1, 3))
    alike = []
    for seed in range(20):
        worn = wear(ASTRONAUT, scale, np.random.default_rng(seed))
        assert worn.shape == usual.shape
        assert worn.dtype == np.uint8
        alike.append(np.corrcoef(worn.ravel(), usual.ravel())[0, 1])
    assert min(alike) > 0.5
    assert np.mean(alike) > 0.85


def test_the_same_seed_wears_alike() -> None:
    one, other = (wear(ASTRONAUT, 4, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_gray_stays_gray() -> None:
    for seed in range(12):
        worn = wear(to_gray(ASTRONAUT), 4, np.random.default_rng(seed))
        assert (worn == worn[..., :1]).all()
