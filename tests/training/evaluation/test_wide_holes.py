"""Holes as somebody would remove objects have the sides that the table says."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.wide_holes import SIDES, wide_holes

pytestmark = pytest.mark.tf


def test_wide_holes_have_the_sides_that_are_said() -> None:
    person = np.zeros((300, 100), bool)
    person[50:250, 30:70] = True
    for seed in range(20):
        for missing in wide_holes((512, 768), np.random.default_rng(seed), [person]):
            rows, columns = np.flatnonzero(missing.any(axis=1)), np.flatnonzero(missing.any(axis=0))
            sides = (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
            assert SIDES[0] <= max(sides) <= SIDES[1]
