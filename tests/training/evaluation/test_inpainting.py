"""Inpainting is measured inside the holes, with the same holes for every method."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.packs import Packs
from training.evaluation.inpainting import CLASSICAL, in_hole_psnr, photo_tables


@pytest.fixture
def packs(tmp_path: Path) -> Packs:
    folder = tmp_path / "photos/test/Kodak24"
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:128, :192]
    for number in range(2):
        picture = np.stack([rows + number * 20, columns, 255 - rows], -1).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return Packs(tmp_path)


def test_only_what_is_missing_counts() -> None:
    true = np.full((8, 8, 3), 100, np.uint8)
    found, missing = true.copy(), np.zeros((8, 8), bool)
    missing[2:4, 2:4] = True
    found[missing] = 110
    found[7, 7] = 0
    assert in_hole_psnr(found, true, missing) == pytest.approx(20 * math.log10(255 / 10))


def test_a_table_of_all_methods(packs: Packs) -> None:
    seen: list[np.ndarray] = []
    true = packs.pictures("photos/test/Kodak24")

    def ours(picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
        seen.append(missing)
        known = next(one for one in true if (one[~missing] == picture[~missing]).all())
        assert (picture[missing] == 0).all()
        return np.clip(known.astype(int) + 1, 0, 255).astype(np.uint8)

    (table,) = photo_tables(ours, [], packs)
    assert [row[0] for row in table.rows] == [*CLASSICAL, "inpaint/photo"]
    assert len(table.columns) == 5
    assert len(seen) == 8
    figures = {str(row[0]): [float(value) for value in row[1:]] for row in table.rows}
    assert all(40 < value < 49 for value in figures["inpaint/photo"])
    assert all(np.array(figures["biharmonic"]) > np.array(figures["the mean of what is known"]) + 10)
