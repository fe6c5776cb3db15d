"""The bicubic reduction has the properties of MATLAB's."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.imresize import imresize, matrix


@pytest.mark.parametrize(("length", "out"), [(12, 4), (12, 6), (12, 36), (7, 5), (1, 3)])
def test_weights_sum_to_one(length: int, out: int) -> None:
    assert matrix(length, out).sum(axis=1) == pytest.approx(np.ones(out))


def test_known_weights() -> None:
    """Halving with the widened kernel, a = -0.5: the eight taps that MATLAB's `imresize` has."""
    taps = np.array([-0.01171875, -0.03515625, 0.11328125, 0.43359375])
    row = matrix(32, 16)[8]
    assert row[13:21] == pytest.approx(np.concatenate([taps, taps[::-1]]))
    assert np.count_nonzero(row) == 8


def test_a_ramp_stays_a_ramp() -> None:
    ramp = np.tile(np.arange(48.0)[None, :, None], (24, 1, 3))
    small = imresize(ramp, 12, 24)
    assert small[6, 4:-4, 1] == pytest.approx(np.arange(24)[4:-4] * 2 + 0.5)


def test_axes_do_not_mix() -> None:
    picture = np.random.default_rng(0).random((6, 8, 3))
    rows, columns = matrix(6, 3), matrix(8, 16)
    expected = np.einsum("ih,hwc,jw->ijc", rows, picture, columns)
    assert imresize(picture, 3, 16) == pytest.approx(expected)
