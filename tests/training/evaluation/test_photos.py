"""The protocol's arithmetic, on packs made by code and networks whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.data.packs import Packs, WrongPack
from training.evaluation import photos
from training.evaluation.tables import ResultTable

pytestmark = pytest.mark.tf


def write(folder: Path, names: list[str], size: tuple[int, int] = (20, 28), *, gray: bool = False) -> None:
    """Write smooth pictures of medium brightness, all different."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for place, name in enumerate(names):
        waves = [np.sin(rows / (3 + place % 5) + k) + np.cos(columns / (4 + place % 3) - k) for k in range(3)]
        picture = (127 + 30 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(picture[..., 0] if gray else picture).save(folder / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    root = tmp_path_factory.mktemp("packs")
    test = root / "photos/test"
    write(test / "Kodak24", [f"kodim{i:02}.png" for i in range(24)])
    write(test / "B100", [f"{i:03}.png" for i in range(100)])
    (test / "CBSD68_names.txt").write_text("\n".join(f"{i:03}" for i in range(10, 78)) + "\n")
    write(test / "PolyU", [f"scene_{i}_{kind}.png" for i in range(3) for kind in ("mean", "real")])
    write(test / "Set5", ["a.png", "b.png"], (45, 61))
    write(test / "Set14", ["bridge.png"], (48, 48), gray=True)
    return Packs(root)


def cells(tables: list[ResultTable], title: str) -> dict[str, list[float]]:
    """Return the figures of the table whose title begins so, by row."""
    table = next(table for table in tables if table.title.startswith(title))
    return {str(row[0]): [float(cell) for cell in row[1:] if cell != ""] for row in table.rows}


def identity(inputs: Mapping[str, Any]) -> dict[str, Any]:
    assert all(size % photos.MULTIPLE == 0 for size in inputs["image"].shape[1:3])
    return {"image": inputs["image"]}


def test_a_denoiser_that_does_nothing(made: Packs) -> None:
    levels: list[float] = []

    def denoise(inputs: Mapping[str, Any]) -> dict[str, Any]:
        levels.append(float(inputs["level"].reshape(())))
        return identity(inputs)

    def estimate(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"level": np.full((1, 1, 1, 1), 0.4, np.float32)}

    networks: Any = {"denoise": denoise, "estimate": estimate}
    tables = photos.measure_denoising(networks, made)

    literature = cells(tables, "Literature protocol, PSNR")
    assert literature["denoise/photo"] == pytest.approx([24.6, 20.2, 14.5] * 2, abs=0.4)  # 20 log10(255/σ), rounded
    assert literature["OpenCV, non-local means"][2] > literature["denoise/photo"][2] + 3
    assert literature["CBM3D"] == [34.28, 31.68, 28.46, 33.52, 30.71, 27.38]
    assert cells(tables, "Literature protocol, SSIM").keys() == {"OpenCV, non-local means", "denoise/photo"}
    service = cells(tables, "Service protocol")
    assert service["strength = σ/75"] == service["strength = auto"] == service["noisy"]
    real = cells(tables, "Real damage")
    assert real["Kodak24, clean"] == [photos.HIGHEST, photos.HIGHEST]
    assert real["Kodak24, JPEG quality 30"][2] == 0
    assert real["Kodak24, JPEG quality 30"][0] < real["Kodak24, JPEG quality 90"][0] < photos.HIGHEST
    assert levels[:24] == pytest.approx([15 / 75] * 24)
    assert {round(level, 4) for level in levels} == {0.2, 0.3333, 0.6667, 0.4}
    # 0.4 of 75 is 30: right by what is missing to it, where nothing is clipped.
    assert [row[0] for row in cells(tables, "What `auto`").values()] == pytest.approx([30, 25, 15, 5, -20], abs=1.5)


def test_cbsd68_is_68_pictures(made: Packs, tmp_path: Path) -> None:
    assert len(photos.load_cbsd68(made)) == 68
    write(tmp_path / "photos/test/B100", ["010.png"])
    (tmp_path / "photos/test/CBSD68_names.txt").write_text("010\n")
    with pytest.raises(WrongPack, match="68 pictures"):
        photos.load_cbsd68(Packs(tmp_path))


def test_noise_is_seeded_by_the_index(made: Packs) -> None:
    picture = photos.load_kodak24(made)[0]
    assert np.array_equal(photos.add_noise(picture, 3, 25), photos.add_noise(picture, 3, 25))
    assert not np.array_equal(photos.add_noise(picture, 3, 25), photos.add_noise(picture, 4, 25))
    noise = photos.add_noise(picture, 3, 25) - picture
    assert np.std(noise) == pytest.approx(25, rel=0.05)


def test_an_enlarger_that_repeats_pixels(made: Packs) -> None:
    def repeat(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": identity(inputs)["image"].repeat(2, axis=1).repeat(2, axis=2)}

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
