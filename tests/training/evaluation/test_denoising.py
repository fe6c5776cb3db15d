"""The protocol's arithmetic, on packs made by code and networks whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.tasks import denoise as served
from app.tasks import noise
from tests.training.evaluation.photo_packs import cells, write_pictures
from training.data.packs import Packs, WrongPack
from training.evaluation import denoising
from training.evaluation.photos import HIGHEST, MULTIPLE

pytestmark = pytest.mark.tf

Network = Callable[[Mapping[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    root = tmp_path_factory.mktemp("packs")
    test = root / "photos/test"
    write_pictures(test / "Kodak24", [f"kodim{i:02}.png" for i in range(24)])
    write_pictures(test / "B100", [f"{i:03}.png" for i in range(100)])
    (test / "CBSD68_names.txt").write_text("\n".join(f"{i:03}" for i in range(10, 78)) + "\n")
    write_pictures(test / "PolyU", [f"scene_{i}_{kind}.png" for i in range(3) for kind in ("mean", "real")])
    write_pictures(test / "Set5", ["a.png", "b.png"], (45, 61))
    write_pictures(test / "Set14", ["bridge.png"], (48, 48), gray=True)
    write_pictures(root / "real/denoise", ["Dog.png"], (64, 80))
    return Packs(root)


def estimator(level: float, **others: float) -> Network:
    """Return a network that always finds the same."""
    found = {key: np.full((1, 1, 1, 1), value, np.float32) for key, value in {"level": level, **others}.items()}
    return lambda inputs: found


def adder(value: float, levels: list[float] | None = None) -> Network:
    """Return a network that adds `value`, and writes down the levels that it was told."""

    def add(inputs: Mapping[str, Any]) -> dict[str, Any]:
        assert all(size % MULTIPLE == 0 for size in inputs["image"].shape[1:3])
        if levels is not None:
            levels.append(float(inputs["level"].reshape(())))
        return {"image": inputs["image"] + np.float32(value)}

    return add


def test_a_denoiser_that_does_nothing(made: Packs) -> None:
    levels: list[float] = []
    networks: Any = {"denoise": adder(0, levels), "estimate": estimator(0.4)}
    tables = denoising.measure(networks, made)

    literature = cells(tables, "Literature protocol, PSNR")
    assert literature["denoise/photo"] == pytest.approx([24.6, 20.2, 14.5] * 2, abs=0.4)  # 20 log10(255/σ), rounded
    assert literature["OpenCV, non-local means"][2] > literature["denoise/photo"][2] + 3
    assert literature["CBM3D"] == [34.28, 31.68, 28.46, 33.52, 30.71, 27.38]
    assert cells(tables, "Literature protocol, SSIM").keys() == {"OpenCV, non-local means", "denoise/photo"}
    service = cells(tables, "Service protocol")
    assert service["strength = σ/75"] == service["strength = auto"] == service["noisy"]
    real = cells(tables, "Real damage")
    assert real["Kodak24, clean"] == [HIGHEST, HIGHEST]
    assert real["Kodak24, JPEG quality 30"][2] == 0
    assert real["Kodak24, JPEG quality 30"][0] < real["Kodak24, JPEG quality 90"][0] < HIGHEST
    assert levels[:24] == pytest.approx([15 / 75] * 24)
    assert {round(level * 75, 3) for level in levels[: 92 * 3]} == {15, 25, 50}
    # 0.4 of 75 is 30: right by what is missing to it, where nothing is clipped.
    assert [row[0] for row in cells(tables, "What `auto`").values()] == pytest.approx([30, 25, 15, 5, -20], abs=1.5)

    clean = next(table for table in tables if table.title.startswith("Clean pictures, strength = auto"))
    assert [row[0] for row in clean.rows] == ["Kodak24", "Set5", "Set14", "scikit-image"]
    assert all(row[1:3] == [HIGHEST, HIGHEST] and row[4] == pytest.approx(30) for row in clean.rows)
    assert all(cell == 0 for row in cells(_without_names(tables), "Clean pictures with").values() for cell in row)
    cameras = cells(tables, "Simulated cameras")
    assert sum(row[0] for row in cameras.values()) == 25 * denoising.CAMERAS
    assert all(before == auto == told for _, before, auto, _, told, *_ in cameras.values())
    (left,) = cells(tables, "Real pictures").values()
    assert left[1] == pytest.approx(30)
    assert left[3] == left[5] == 1
    assert left[6] == denoising.PLAIN_SIGMAS[-1]


def _without_names(tables: list[Any]) -> list[Any]:
    for table in tables:
        for row in table.rows:
            row[1:] = [cell.partition(" (")[0] if isinstance(cell, str) else cell for cell in row[1:]]
    return tables


@pytest.mark.parametrize(
    ("estimated", "correlation", "told", "used"),
    [
        (0.4, 0.09, 0.4, "denoise"),
        (0.4, 0.1, 0.508, "denoise_correlated"),
        (0.02, 0.5, 0.039, "denoise_correlated"),
        (0.9, 0.5, 1.0, "denoise_correlated"),
        (0.02, 0.19, 0.02, "denoise"),
        (0.02, 0.3, 0.0362, "denoise_correlated"),
    ],
)
def test_the_network_is_chosen_and_told_the_level_as_in_the_service(
    estimated: float, correlation: float, told: float, used: str
) -> None:
    for name in ("CORRELATED", "CORRELATED_IF_FAINT", "STRONG", "EXCESS", "LARGEST_EXCESS"):
        assert getattr(denoising, name) == getattr(served, f"_{name}")
    assert denoising.WHITE == noise._WHITE
    image = np.full((20, 28, 3), (0.4, 0.5, 0.6), np.float32)
    levels: dict[str, list[float]] = {"denoise": [], "denoise_correlated": []}
    networks: Any = {name: adder(0.0, found) for name, found in levels.items()}
    networks["estimate"] = estimator(estimated, correlation=correlation)
    denoising.run_denoiser(networks, image)
    assert {name: found for name, found in levels.items() if found} == {used: [pytest.approx(told)]}
    denoising.run_denoiser(networks, image, told)
    assert levels[used][1:] == [pytest.approx(told)]


def test_a_model_with_one_network_needs_no_correlation() -> None:
    image = np.full((20, 28, 3), 0.5, np.float32)
    networks: Any = {"denoise": adder(0.01), "estimate": estimator(0.4)}
    assert denoising.run_denoiser(networks, image) - image == pytest.approx(0.01, abs=1e-6)
    del networks["estimate"]
    assert denoising.run_denoiser(networks, image, 0.2) - image == pytest.approx(0.01, abs=1e-6)


def test_the_correction_is_limited_to_the_level() -> None:
    image = np.full((20, 28, 3), 0.5, np.float32)
    networks: Any = {"denoise": adder(0.3), "estimate": estimator(0.0)}
    assert np.array_equal(denoising.run_denoiser(networks, image), image)
    change = denoising.run_denoiser(networks, image, 0.1) - image
    assert 0 < change.max() < 0.1


def test_noise_is_measured_around_planes() -> None:
    slope = np.add.outer(np.arange(64), np.arange(80))[..., None].repeat(3, axis=-1) + 50.0
    noisy = slope + np.random.default_rng(0).normal(0, 8, slope.shape)
    patches = denoising.flattest_patches(noisy.astype(np.uint8))
    assert denoising.noise_in(slope, patches) == pytest.approx(0, abs=1e-6)
    assert denoising.noise_in(noisy, patches) == pytest.approx(8, rel=0.05)


def test_the_flattest_patches_are_not_the_clipped_ones() -> None:
    picture = np.full((64, 80, 3), 255, np.uint8)
    picture[16:48, 16:64] = np.random.default_rng(0).normal(128, 8, (32, 48, 3))
    assert set(denoising.flattest_patches(picture, share=1.0)) == {(r, c) for r in (16, 32) for c in (16, 32, 48)}


def test_cameras_are_the_same_each_time(made: Packs) -> None:
    first, again = (next(denoising.camera_pairs(made)) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(*first)


def test_cbsd68_is_68_pictures(made: Packs, tmp_path: Path) -> None:
    assert len(denoising.load_cbsd68(made)) == 68
    write_pictures(tmp_path / "photos/test/B100", ["010.png"])
    (tmp_path / "photos/test/CBSD68_names.txt").write_text("010\n")
    with pytest.raises(WrongPack, match="68 pictures"):
        denoising.load_cbsd68(Packs(tmp_path))


def test_noise_is_seeded_by_the_index(made: Packs) -> None:
    picture = denoising.load_kodak24(made)[0]
    assert np.array_equal(denoising.add_noise(picture, 3, 25), denoising.add_noise(picture, 3, 25))
    assert not np.array_equal(denoising.add_noise(picture, 3, 25), denoising.add_noise(picture, 4, 25))
    noise = denoising.add_noise(picture, 3, 25) - picture
    assert np.std(noise) == pytest.approx(25, rel=0.05)
