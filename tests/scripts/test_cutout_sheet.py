"""The sheet of cutouts: its pictures, and the part of an edge that it shows."""

from __future__ import annotations

import numpy as np
import pytest

from scripts import cutout_sheet


@pytest.mark.parametrize("name", [name for name in cutout_sheet.PICTURES if name != "24 megapixels"])
def test_each_picture_is_one(name: str) -> None:
    picture = cutout_sheet.PICTURES[name]()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert min(picture.shape[:2]) >= cutout_sheet.SIDE
    assert picture.std() > 1


def test_the_part_is_at_an_edge_and_within_the_picture() -> None:
    alpha = np.zeros((300, 260), np.uint8)
    alpha[10:40, 200:] = 255
    alpha[9, 200:] = 128
    rows, columns = cutout_sheet._edge(alpha)
    part = alpha[rows, columns]
    assert part.shape == (cutout_sheet.SIDE, cutout_sheet.SIDE)
    assert set(np.unique(part)) == {0, 128, 255}
    assert cutout_sheet._edge(np.zeros((300, 260), np.uint8)) == (slice(0, 200), slice(0, 200))
