from __future__ import annotations

import numpy as np
import pytest
import skimage.data

from training.data.imresize import imresize
from training.data.reductions import REDUCTIONS, bicubic, draw, unfiltered

ASTRONAUT = skimage.data.astronaut()[:240, :192]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_sizes_and_brightness(name: str, scale: int) -> None:
    small = REDUCTIONS[name](ASTRONAUT, scale)
    assert small.shape == (240 // scale, 192 // scale, 3)
    assert small.dtype == np.uint8
    assert small.mean() == pytest.approx(ASTRONAUT.mean(), abs=2)


def test_bicubic_is_that_of_the_literature() -> None:
    expected = np.clip(np.rint(imresize(ASTRONAUT, 60, 48)), 0, 255)
    assert np.abs(bicubic(ASTRONAUT, 4) - expected).max() <= 1  # of float32


def test_without_a_filter_fine_stripes_are_folded() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = 255
    assert bicubic(stripes, 4).std() < 10
    stripes[:] = 0
    stripes[1::4], stripes[2::4] = 255, 255
    assert unfiltered(stripes, 4).mean() > 200


@pytest.mark.parametrize("filtered", [True, False])
def test_every_drawn_reduction_has_the_right_size(filtered: bool) -> None:
    random = np.random.default_rng(0)
    for scale in (2, 3, 4):
        sizes = {draw(random, filtered=filtered)(ASTRONAUT, scale).shape for _ in range(12)}
        assert sizes == {(240 // scale, 192 // scale, 3)}
