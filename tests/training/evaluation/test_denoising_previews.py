"""Full-size previews: each drawn case is what its name says, and a grid has a column for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.evaluation.photo_packs import write_pictures
from training.cli import main
from training.data.packs import Packs
from training.evaluation import denoising_previews as full_size

pytestmark = pytest.mark.tf


def test_each_picture_is_beside_what_became_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "real/denoise", ["Dog.png"], (64, 80))
    found = {key: np.full((1, 1, 1, 1), 0.1, np.float32) for key in ("level", "correlation")}
    networks: Any = {"denoise": lambda inputs: {"image": inputs["image"]}, "estimate": lambda inputs: found}
    stars = full_size.draw_stars(64)
    monkeypatch.setattr(full_size, "hard_cases", lambda: {"stars": (stars, stars)})
    grids = dict(full_size.preview_grids(networks, Packs(tmp_path)))
    assert grids["Dog"].shape == (20 + 64, 4 * 80 + 3 * 4, 3)
    assert grids["stars"].shape == (20 + 64, 5 * 64 + 4 * 4, 3)
    assert np.array_equal(grids["stars"][20:, :64], stars)
    assert np.array_equal(grids["stars"][20:, -64:], stars)


def test_the_command_draws_a_published_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "packs/real/denoise", ["Dog.png"], (64, 80))
    monkeypatch.setattr(full_size, "hard_cases", dict)
    folders = ["--data", str(tmp_path / "packs"), "--to", str(tmp_path / "drawn")]
    assert main(["sheet", "denoise_photo", "--repository", "models/published", *folders]) == 0
    assert [file.name for file in (tmp_path / "drawn/denoise_photo").iterdir()] == ["Dog.png"]


def test_hard_cases_are_noisy_where_their_names_say_so() -> None:
    cases = full_size.hard_cases()
    kept = {name for name, (picture, clean) in cases.items() if np.array_equal(picture, clean)}
    assert kept == {"stars", "pixel-art", "print"}
    for name, (picture, clean) in cases.items():
        assert picture.shape == clean.shape
        assert picture.dtype == clean.dtype == np.uint8
        assert np.array_equal(picture[..., 0], picture[..., 1]) == ("gray" in name)


def test_a_large_picture_is_shown_in_parts_and_a_small_one_once() -> None:
    picture = np.full((900, 700, 3), 128, np.uint8)
    picture[:300, :300] = np.random.default_rng(0).integers(0, 2, (300, 300, 1)) * 255
    middle, busiest, _ = full_size.crops(picture)
    assert (middle[0].start, middle[1].start) == (290, 190)
    assert max(busiest[0].start, busiest[1].start) <= 32
    assert full_size.crops(picture[:330, :340]) == [(slice(5, 325), slice(10, 330))]
