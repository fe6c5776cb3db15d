"""What training left is taken whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training import tiny
from training.recipe import Recipe
from training.results import NotTrained, trained

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def save(recipe: Recipe, out: Path) -> None:
    for name, part in recipe.parts.items():
        (out / recipe.id / name).mkdir(parents=True)
        part.network().save_weights(out / recipe.id / name / "weights.weights.h5")


def test_the_weights_come_back(tmp_path: Path) -> None:
    kept = tiny.network()
    recipe = tiny.recipe()
    recipe.parts["denoise"] = replace(recipe.parts["denoise"], network=lambda: kept)
    save(recipe, tmp_path)
    found = trained(tiny.recipe(), tmp_path)["denoise"]
    for ours, theirs in zip(found.weights, kept.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_what_is_made_of_another_recipes_results_is_found_there(tmp_path: Path) -> None:
    save(tiny.recipe(), tmp_path)
    other = replace(tiny.recipe(), task="inpaint", trained_as="denoise_tiny")
    assert other.id == "inpaint_tiny"
    assert trained(other, tmp_path).keys() == {"denoise"}
    with pytest.raises(NotTrained, match="python -m training train inpaint_tiny:denoise"):
        trained(replace(other, trained_as=""), tmp_path)


def test_a_part_that_was_not_trained_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(NotTrained, match="python -m training train denoise_tiny:denoise"):
        trained(tiny.recipe(), tmp_path)


def test_weights_of_a_network_that_has_changed_since_are_refused(tmp_path: Path) -> None:
    save(tiny.recipe(), tmp_path)

    def wider() -> object:
        import keras

        network = tiny.network()
        more = keras.layers.Conv2D(3, 1, name="more")(network.output["image"])
        return keras.Model(network.input, {"image": more}, name="tiny")

    recipe = tiny.recipe()
    recipe.parts["denoise"] = replace(recipe.parts["denoise"], network=wider)
    with pytest.raises(NotTrained, match="another network than denoise_tiny:denoise has now"):
        trained(recipe, tmp_path)
