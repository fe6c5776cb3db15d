"""The screened Poisson equation: the solution satisfies it, and seams of color are gone after it."""

from __future__ import annotations

import numpy as np
import pytest

from app.imaging.exemplar import poisson
from app.imaging.exemplar.compose import compose


@pytest.mark.parametrize("screen", [0.0, 0.01])
@pytest.mark.parametrize("border", [0, 1])
def test_the_solution_satisfies_the_equation(screen: float, border: int) -> None:
    free = np.zeros((60, 75), bool)
    free[border : 50 + border, 5:70] = True
    free[20:30, 20:40] = False
    right = np.where(free, np.random.default_rng(0).normal(0, 1, free.shape), 0).astype(np.float32)
    u = poisson.solve(right, free, screen)
    assert (u[~free] == 0).all()
    padded = np.pad(u, 1)
    there = np.pad(np.ones_like(u), 1)
    neighbors = sum(np.roll(padded, 1, axis) + np.roll(padded, -1, axis) for axis in (0, 1))[1:-1, 1:-1]
    count = sum(np.roll(there, 1, axis) + np.roll(there, -1, axis) for axis in (0, 1))[1:-1, 1:-1]
    rest = (count + screen) * u - neighbors - right
    assert np.abs(rest[free]).max() < 0.02


def test_a_step_between_two_sources_becomes_a_slope() -> None:
    picture = np.full((60, 120, 1), 100, np.uint8)
    picture[:, 60:] = 110  # the right half is lighter
    hole = np.zeros((60, 120), bool)
    hole[20:40, 30:50] = True
    dy, dx = np.zeros((2, 60, 120), np.int32)
    dx[:, 30:40] = -20
    dx[:, 40:50] = 40  # from the lighter half
    filled = compose(picture, hole, hole, dy, dx)
    assert np.abs(np.diff(filled[30, :60, 0].astype(int))).max() <= 2


def test_an_edge_stays_an_edge() -> None:
    picture = np.full((60, 120, 1), 40, np.uint8)
    picture[:, 60:] = 240
    hole = np.zeros((60, 120), bool)
    hole[20:40, 30:50] = True
    dy, dx = np.zeros((2, 60, 120), np.int32)
    dx[:, 30:40] = -20
    dx[:, 40:50] = 40
    row = compose(picture, hole, hole, dy, dx)[30, :60, 0].astype(int)
    assert row[40] - row[39] > 120
