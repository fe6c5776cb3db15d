"""Finding holes: one region per hole, several for long thin ones; and dilation, feathering, thickness."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.imaging import holes
from app.imaging.holes import LARGE, Region


def count_cores(missing: np.ndarray, found: list[Region]) -> np.ndarray:
    """Return how many cores each pixel is in."""
    times = np.zeros(missing.shape, int)
    for region in found:
        times[region.core.top : region.core.bottom, region.core.left : region.core.right] += 1
    return times


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    boxes=st.lists(st.tuples(st.integers(0, 299), st.integers(0, 299), st.integers(1, 60), st.integers(1, 60))),
    margin=st.integers(0, 80),
)
@settings(max_examples=150)
def test_every_missing_pixel_lies_in_a_core(
    height: int, width: int, boxes: list[tuple[int, int, int, int]], margin: int
) -> None:
    missing = np.zeros((height, width), bool)
    for top, left, tall, wide in boxes:
        missing[top : top + tall, left : left + wide] = True
    found = holes.find_regions(missing, margin)
    assert (count_cores(missing, found)[missing] >= 1).all()
    for region in found:
        core, window = region.core, region.window
        assert missing[core.top : core.bottom, core.left : core.right].any()
        assert window.top == max(0, core.top - margin)
        assert window.bottom == min(height, core.bottom + margin)
        assert window.left == max(0, core.left - margin)
        assert window.right == min(width, core.right + margin)


def test_holes_far_apart_have_a_region_each() -> None:
    missing = np.zeros((600, 800), bool)
    missing[10:20, 10:20] = missing[400:440, 700:720] = True
    first, second = holes.find_regions(missing, 32)
    assert (first.core.top, first.core.left, first.core.bottom, first.core.right) == (10, 10, 20, 20)
    assert (second.core.top, second.core.left) == (400, 700)
    assert (first.window.top, first.window.right) == (0, 52)


def test_near_holes_are_merged() -> None:
    missing = np.zeros((300, 300), bool)
    missing[100:110, 100:110] = missing[100:110, 130:140] = True
    assert len(holes.find_regions(missing, 64)) == 1


@pytest.mark.parametrize("margin", [1, 2, 15, 31, 33, 48, 50, 63, 64, 65])
def test_pixels_nearer_than_the_margin_are_one_hole_wherever_they_are(margin: int) -> None:
    for offset in range(holes.CELL):
        missing = np.zeros((40, 200), bool)
        missing[20, [offset, offset + margin - 1]] = True
        for mask in (missing, missing.T.copy()):
            assert len(holes.find_regions(mask, margin)) == 1, offset


def test_a_long_scratch_is_split() -> None:
    missing = np.zeros((3000, 3000), np.uint8)
    cv2.line(missing, (5, 5), (2990, 2980), 1, 3)
    found = holes.find_regions(missing.view(bool), 64)
    assert len(found) > 5
    assert max(max(one.core.height, one.core.width) for one in found) <= LARGE
    assert (count_cores(missing, found)[missing > 0] == 1).all()
    # The windows cover less than the nine million pixels of the picture.
    assert sum(one.window.height * one.window.width for one in found) < 6e6


def test_a_large_hole_is_not_split() -> None:
    missing = np.zeros((1500, 1500), bool)
    missing[100:900, 200:1300] = True
    (region,) = holes.find_regions(missing, 64)
    assert (region.core.height, region.core.width) == (800, 1100)


@pytest.mark.parametrize("thickness", [1, 8, 9])
def test_a_hole_is_thin_if_no_larger_square_fits_in(thickness: int) -> None:
    missing = np.zeros((60, 80), np.uint8)
    missing[20 : 20 + thickness, :] = 1
    assert holes.is_thin(missing.view(bool), 8) == (thickness <= 8)
    assert holes.is_thin(missing.T.copy().view(bool), 8) == (thickness <= 8)


@pytest.mark.parametrize("pixels", [0, 1, 7])
def test_dilate_adds_a_disc(pixels: int) -> None:
    missing = np.zeros((41, 41), bool)
    missing[20, 20] = True
    rows, columns = np.mgrid[-20:21, -20:21]
    np.testing.assert_array_equal(holes.dilate(missing, pixels), rows**2 + columns**2 <= pixels**2)


def test_dilate_does_not_depend_on_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = np.random.default_rng(0).random((200, 90)) > 0.999
    whole = holes.dilate(missing, 9)
    monkeypatch.setattr(holes, "STRIP", 16)
    np.testing.assert_array_equal(holes.dilate(missing, 9), whole)


def test_feather_falls_linearly() -> None:
    missing = np.zeros((1, 9), bool)
    missing[0, :3] = True
    np.testing.assert_allclose(holes.feather(missing, 3)[0], [1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(holes.feather(missing, 0)[0], [1, 1, 1, 0, 0, 0, 0, 0, 0], atol=1e-6)
