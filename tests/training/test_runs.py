"""Hours and steps of all runs count, once; trained weights are loaded whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training import tiny
from training.recipe import Recipe
from training.runs import NotTrained, load_trained, previous_runs, read_previous_runs

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def write(file: Path, facts: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts))
    return file.parent


def test_a_published_model_says_what_it_took(tmp_path: Path) -> None:
    facts = {"provenance": {"hours": 1.5, "steps": 400}}
    folder = write(tmp_path / "repository/superres/photo/3/manifest.json", facts)
    assert previous_runs(folder) == [("superres/photo/3", 1.5, 400)]


def test_weights_are_told_of_by_the_run_beside_them_and_by_those_before_it(tmp_path: Path) -> None:
    facts = {"seconds": 1800, "steps": 90, "previous_runs": [["inpaint/photo/1", 1.7, 5425]]}
    folder = write(tmp_path / "runs/inpaint_photo/inpaint/run.json", facts)
    found = previous_runs(folder / "weights.weights.h5")
    assert found == [("inpaint/photo/1", 1.7, 5425), ("inpaint", 0.5, 90)]
    again = write(tmp_path / "again/run.json", {"seconds": 3600, "steps": 200, "previous_runs": found})
    assert previous_runs(again / "weights.weights.h5") == [*found, ("again", 1.0, 200)]


def test_a_dataset_archive_says_what_went_before_and_was_no_run_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "start/superres_photo/run.json", {"previous_runs": [["superres/photo/3", 1.0, 4375]]})
    assert previous_runs(folder / "x4.npz") == [("superres/photo/3", 1.0, 4375)]


def test_what_says_nothing_of_itself_took_nothing_that_is_known(tmp_path: Path) -> None:
    assert previous_runs(tmp_path) == []
    assert previous_runs(tmp_path / "teacher.npz") == []
    # As the first runs were written.
    assert read_previous_runs({"seconds": 10, "steps": 3}) == []


def test_runs_of_version_0_1_are_read() -> None:
    assert read_previous_runs({"steps": 3, "before": [["inpaint/photo/1", 1.7, 5425]]}) == [
        ("inpaint/photo/1", 1.7, 5425)
    ]


def save(recipe: Recipe, out: Path) -> None:
    for name, part in recipe.parts.items():
        (out / recipe.id / name).mkdir(parents=True)
        part.network().save_weights(out / recipe.id / name / "weights.weights.h5")


def test_the_weights_come_back(tmp_path: Path) -> None:
    kept = tiny.network()
    recipe = tiny.recipe()
    recipe.parts["denoise"] = tiny.TinyPart(network=lambda: kept)
    save(recipe, tmp_path)
    found = load_trained(tiny.recipe(), tmp_path)["denoise"]
    for ours, theirs in zip(found.weights, kept.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_what_is_made_of_another_recipes_results_is_found_there(tmp_path: Path) -> None:
    save(tiny.recipe(), tmp_path)
    other = tiny.TinyRecipe("inpaint_tiny")
    other.trained_as = "denoise_tiny"
    assert load_trained(other, tmp_path).keys() == {"denoise"}
    with pytest.raises(NotTrained, match="python -m training train inpaint_tiny:denoise"):
        load_trained(tiny.TinyRecipe("inpaint_tiny"), tmp_path)


def test_a_part_that_was_not_trained_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(NotTrained, match="python -m training train denoise_tiny:denoise"):
        load_trained(tiny.recipe(), tmp_path)


def test_weights_of_a_network_that_has_changed_since_are_refused(tmp_path: Path) -> None:
    save(tiny.recipe(), tmp_path)

    def wider() -> object:
        import keras

        network = tiny.network()
        more = keras.layers.Conv2D(3, 1, name="more")(network.output["image"])
        return keras.Model(network.input, {"image": more}, name="tiny")

    recipe = tiny.recipe()
    recipe.parts["denoise"] = tiny.TinyPart(network=wider)
    with pytest.raises(NotTrained, match="does not fit the current network of denoise_tiny:denoise"):
        load_trained(recipe, tmp_path)
