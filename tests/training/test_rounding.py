"""Weights are rounded to bfloat16 one by one, and together."""

from __future__ import annotations

import numpy as np

from training.rounding import round_together, to_bfloat16


def test_numbers_are_rounded_to_the_nearest_and_halves_to_even() -> None:
    step = 2.0**-7  # of bfloat16 between 1 and 2
    given = np.array([0.0, -0.0, 1.0, 1 + 0.4 * step, 1 + 0.6 * step, 1 + step / 2, 1 + 1.5 * step, -1 - 0.6 * step])
    expected = [0.0, -0.0, 1.0, 1.0, 1 + step, 1.0, 1 + 2 * step, -1 - step]
    np.testing.assert_array_equal(to_bfloat16(given), np.array(expected, np.float32))
    random = np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)
    rounded = to_bfloat16(random)
    assert (np.abs(rounded - random) <= np.abs(random) * 2.0**-8).all()
    np.testing.assert_array_equal(to_bfloat16(rounded), rounded)


def test_weights_that_are_rounded_together_change_the_answer_less() -> None:
    random = np.random.default_rng(1)
    inputs = random.normal(size=(2000, 5)) @ random.normal(size=(5, 40)) + 0.1 * random.normal(size=(2000, 40))
    inputs[:, 7] = 1.0  # a constant and its double: together they have no inverse
    inputs[:, 8] = 2.0
    weights = random.normal(size=(40, 6)).astype(np.float32)
    rounded = round_together(weights, inputs.T @ inputs / len(inputs))
    np.testing.assert_array_equal(rounded, to_bfloat16(rounded))
    together, apart = (np.sqrt(np.mean(np.square(inputs @ (one - weights)))) for one in (rounded, to_bfloat16(weights)))
    assert together < 0.3 * apart
