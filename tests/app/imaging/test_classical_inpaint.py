"""Classical inpainting: only holes change, at every depth, and a part of a picture is filled like the whole."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from app.imaging import classical_inpaint, holes
from app.imaging.classical_inpaint import Method
from tests.app.imaging.samples import smooth

METHODS: tuple[Method, ...] = ("telea", "ns", "biharmonic")


def make_scratches(height: int = 90, width: int = 120) -> np.ndarray:
    missing = np.zeros((height, width), np.uint8)
    cv2.line(missing, (3, 80), (110, 6), 1, 2)
    missing[30:38, 60:70] = 1
    missing[0, 0] = missing[-1, -1] = 1
    return missing.view(bool)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_holes_are_filled_and_nothing_else_changes(method: Method, channels: int, dtype: Any) -> None:
    true = smooth(90, 120, channels, dtype)
    missing = make_scratches()
    scratched = np.where(missing[..., None], np.iinfo(dtype).max, true).astype(dtype)
    filled = classical_inpaint.fill(scratched, missing, method)
    assert filled.dtype == dtype
    assert filled.shape == true.shape
    np.testing.assert_array_equal(filled[~missing], true[~missing])
    error = np.abs(filled[missing].astype(float) - true[missing]) / np.iinfo(dtype).max
    assert error.mean() < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_sixteen_bit_keeps_its_depth(method: Method) -> None:
    true = smooth(90, 120, 3, np.uint16)
    filled = classical_inpaint.fill(true, make_scratches(), method)
    assert len(np.unique(filled[make_scratches()] & 255)) > 50


@pytest.mark.parametrize("method", METHODS)
def test_a_flat_picture_stays_flat(method: Method) -> None:
    flat = np.full((40, 50, 3), 118, np.uint8)
    missing = np.zeros((40, 50), bool)
    missing[10:20, 10:30] = missing[0, 0] = missing[0, -1] = missing[-1, 0] = missing[30, 30] = True
    filled = classical_inpaint.fill(flat, missing, method)
    # OpenCV 5's Telea makes 120 of 118 in a corner of some pictures.
    assert np.abs(filled.astype(int) - 118).max() <= 2


@pytest.mark.parametrize("method", METHODS)
def test_without_holes_the_same_array_is_returned(method: Method) -> None:
    pixels = smooth(20, 30, 3)
    assert classical_inpaint.fill(pixels, np.zeros((20, 30), bool), method) is pixels


@pytest.mark.parametrize("radius", [3, 16])
@pytest.mark.parametrize("method", METHODS)
def test_a_hole_is_filled_the_same_in_a_crop(method: Method, radius: int) -> None:
    pixels = np.rint(cv2.GaussianBlur(np.random.default_rng(0).random((300, 400, 3)), (0, 0), 2) * 255).astype(np.uint8)
    missing = np.zeros((300, 400), bool)
    missing[120:150, 150:190] = True
    (region,) = holes.find_regions(missing, 64 + 2 * radius)
    box = region.window
    part = (slice(box.top, box.bottom), slice(box.left, box.right))
    whole = classical_inpaint.fill(pixels, missing, method, radius)
    alone = classical_inpaint.fill(pixels[part], np.ascontiguousarray(missing[part]), method, radius)
    np.testing.assert_array_equal(alone, whole[part])


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_a_few_pixels(method: Method) -> None:
    random = np.random.default_rng(0)
    for height in (1, 2, 3, 5):
        for width in (2, 3, 7):
            missing = random.random((height, width)) > 0.5
            missing[0, :2] = True, False
            for dtype in (np.uint8, np.uint16):
                pixels = random.integers(0, 255, (height, width, 3)).astype(dtype)
                filled = classical_inpaint.fill(pixels, missing, method)
                np.testing.assert_array_equal(filled[~missing], pixels[~missing])
