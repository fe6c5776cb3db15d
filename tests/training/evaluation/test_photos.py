"""The tables of super-resolution, on packs made by code and a network whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.training.evaluation.photo_packs import cells, write_pictures
from training.data.packs import Packs
from training.evaluation import photos

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    root = tmp_path_factory.mktemp("packs")
    test = root / "photos/test"
    write_pictures(test / "B100", [f"{i:03}.png" for i in range(4)])
    write_pictures(test / "Set5", ["a.png", "b.png"], (45, 61))
    write_pictures(test / "Set14", ["bridge.png"], (48, 48), gray=True)
    return Packs(root)


def test_an_enlarger_that_repeats_pixels(made: Packs) -> None:
    def repeat(inputs: Mapping[str, Any]) -> dict[str, Any]:
        assert all(size % photos.MULTIPLE == 0 for size in inputs["image"].shape[1:3])
        return {"image": inputs["image"].repeat(2, axis=1).repeat(2, axis=2)}

    networks: Any = {"x2": repeat}
    tables = photos.measure_superresolution(networks, made, recipe="superres_unet")
    assert tables[0].columns == ["", "Set5 ×2", "Set14 ×2", "B100 ×2"]
    assert tables[0].command == "python -m training evaluate superres_unet"
    figures = cells(tables, "Y PSNR")
    assert figures["VDSR"] == [37.53, 33.03, 31.90]
    for ours, bicubic in zip(figures["superres/unet"], figures["bicubic"], strict=True):
        assert 20 < ours < bicubic - 3
    likeness = cells(tables, "Y SSIM")
    assert all(0.5 < ours < 1 for ours in likeness["superres/unet"])


def test_a_grey_file_is_its_own_luma(made: Packs) -> None:
    ((picture, gray),) = photos.load_enlargement_set(made, "Set14")
    assert gray
    assert np.array_equal(photos.luma(picture, gray), picture[..., 0])
    assert photos.luma(np.full((1, 1, 3), 255, np.uint8), False).item() == 235
