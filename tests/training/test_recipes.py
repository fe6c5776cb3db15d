"""Every recipe: it loads, its parts run at the sizes it promises, and its docstring says how to train it."""

from __future__ import annotations

import importlib
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.tasks import TASKS
from models.manifest import Geometry, read
from training import recipe as recipes
from training.data.packs import MissingPack, Packs
from training.export.card import TERMS
from training.recipe import NotSupported, Recipe, UnknownRecipe

ROOT = Path(__file__).resolve().parents[2]
NAMES = recipes.names()

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(params=NAMES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return recipes.load(request.param)


def geometry(recipe: Recipe) -> Geometry:
    """Return the recipe's geometry as the manifest will have it, with no halo where the export measures it."""
    return Geometry(**(recipe.geometry | {"halo": recipe.geometry.get("halo") or 0}))


def test_there_are_recipes() -> None:
    assert {"denoise_photo", "superres_photo", "denoise_digits"} <= set(NAMES)
    assert sorted(NAMES) == NAMES


def test_it_says_what_it_is(recipe: Recipe) -> None:
    assert recipe.id in NAMES
    assert recipe.task in [task.name for task in TASKS] or not recipe.publishable
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", recipe.name)
    for text in (recipe.title, recipe.description, recipe.architecture):
        assert text.strip()
    assert recipe.packs
    assert set(recipe.packs) <= set(TERMS)
    assert f"## {recipe.packs[0]}" in (ROOT / "docs/data.md").read_text("utf-8")


def test_the_licences_of_what_it_starts_from_are_here(recipe: Recipe) -> None:
    from training.export.publish import LICENCES

    for start in recipe.starts:
        assert start.licence in (LICENCES / start.text).read_text("utf-8")


def test_it_has_parts_that_can_be_trained(recipe: Recipe) -> None:
    assert recipe.parts
    earlier: list[str] = []
    for name, part in recipe.parts.items():
        assert part.hours > 0
        assert part.batch > 0
        assert part.steps_per_epoch > 0
        assert 0 < part.learning_rate < 0.1
        assert 0 <= part.ema < 1
        assert part.start is None or part.start in earlier, f"{name} starts from a part that is not trained before it"
        earlier.append(name)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one size", "every size"])
def test_its_networks_take_and_give_what_its_geometry_promises(recipe: Recipe, every: bool) -> None:
    """At the smallest of its sizes, and at every one."""
    import keras

    said = geometry(recipe)
    for name, part in recipe.parts.items():
        network = part.network()
        scale = int(name[1:]) if re.fullmatch(r"x\d", name) else 1
        sizes = [*said.valid_sizes, *said.canonical_sizes]
        if said.size_rule:
            sizes = [
                (
                    8 * said.size_rule.modulus + said.size_rule.remainder,
                    said.size_rule.modulus * 4 + said.size_rule.remainder,
                )
            ]
        least = said.tile_step if said.kind == "tiled" else said.multiple * 4
        sizes = sizes or [(least + said.multiple, least), (2 * least, least)]
        for height, width in sizes if every else [min(sizes, key=math.prod)]:
            given: dict[str, Any] = {}
            for key, tensor in network.input.items():
                free = key in ("image", "mask", "style")
                shape = (1, height, width, tensor.shape[-1]) if free else (1, *tensor.shape[1:])
                given[key] = np.full(shape, 0.5, np.float32)
            for key, value in network(given).items():
                found = keras.ops.convert_to_numpy(value)
                assert np.isfinite(found).all()
                if key in ("image", "unfiltered"):
                    assert found.shape[1:3] == (scale * height, scale * width)
                elif key == "evidence":
                    assert found.shape[:3] == (1, 1, 1)
                elif key == "probabilities":
                    assert found.shape == (1, height, width, max(1, len(recipe.classes)) if found.shape[-1] > 1 else 1)
                    assert found.min() >= 0
                    assert found.max() <= 1
                else:
                    assert found.shape == (1, 1, 1, 1)


def test_its_docstring_names_its_commands(recipe: Recipe) -> None:
    from training.cli import _parser

    text = importlib.import_module(f"training.recipes.{recipe.id}").__doc__ or ""
    assert f"`{recipe.task}/{recipe.name}`" in text.partition(":")[0]
    commands = re.findall(r"^ {4}python -m training (.*)$", text, re.MULTILINE)
    parsed = [_parser().parse_args(shlex.split(command, comments=True)) for command in commands]
    assert {"train", "evaluate"} <= {options.command for options in parsed}
    assert all(options.recipes == [recipe.id] for options in parsed)


def test_its_model_has_a_row(recipe: Recipe) -> None:
    assert f"`{recipe.id}`" in (ROOT / "docs/training/results.md").read_text("utf-8")


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownRecipe, match="did you mean 'denoise_photo'"):
        recipes.load("denoise_foto")
    with pytest.raises(UnknownRecipe, match="no part 'x7'; its parts are x4, x2, x3"):
        list(recipes.parts("superres_photo:x7"))
    with pytest.raises(UnknownRecipe, match="the recipes are"):
        recipes.load("zzz")


def test_sides_that_networks_take() -> None:
    assert recipes.load("inpaint_mountain").side(64) == 68
    assert recipes.load("superres_photo").side(64) == 64
    assert recipes.load("inpaint_photo").side(65) == 128


def test_parts_are_named_all_or_one() -> None:
    assert [part for _, part in recipes.parts("superres_photo")] == ["x4", "x2", "x3", "aliasing"]
    assert [part for _, part in recipes.parts("superres_photo:x2")] == ["x2"]


def test_an_enlarger_is_calibrated_with_the_share_of_its_second_exit() -> None:
    import keras

    from training.recipes.superres_photo import UpscalePhoto, mix_exits

    part = UpscalePhoto(2, hours=1)
    crops = np.random.default_rng(0).integers(0, 256, (12, 112, 112, 3), np.uint8)
    batch = part.reduce_crops(crops, np.random.default_rng(0))
    served = part.served_inputs(batch, keras.random.SeedGenerator(0))
    assert {key: tuple(value.shape) for key, value in served.items()} == {
        "image": (12, 48, 48, 3),
        "share": (12, 1, 1, 1),
    }
    assert set(served) == set(mix_exits(part.network()).input)
    assert np.ravel(served["share"]).tolist() == [0.0] * 10 + [1.0] * 2


def test_a_loss_that_does_not_call_its_network_says_what_to_do() -> None:
    import keras

    from tests.training import tiny

    part = tiny.TinyPart(loss=lambda network, batch, seed: 0.0)
    with pytest.raises(NotSupported, match=r"the loss of TinyPart does not call .* override served_inputs"):
        part.served_inputs({}, keras.random.SeedGenerator(0))


def published_inputs(recipe: Recipe, part: str, default: set[str]) -> set[str]:
    """Return the names of the inputs of `part` in the newest published model of `recipe`."""
    versions = list((ROOT / "models/published" / recipe.task / recipe.name).glob("*"))
    signatures = read(max(versions, key=lambda folder: int(folder.name))).signatures if versions else {}
    return set(signatures[part].inputs) if part in signatures else default


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_of_real_batches_is_finite_and_its_figures_are_too(name: str, packs: Any) -> None:
    import keras

    for name_of_part, part in recipes.load(name).parts.items():
        keras.utils.set_random_seed(0)
        network = part.network()
        try:
            make = part.batches(packs, 0, 16)
        except MissingPack as missing:
            pytest.skip(str(missing))
        batch = make(0)
        for key, array in make(0).items():
            np.testing.assert_array_equal(array, batch[key])
        loss = keras.ops.convert_to_numpy(part.loss(network, batch, keras.random.SeedGenerator(0)))
        assert loss.shape == ()
        # Before training, stylize_any has 26 to 39 by the seed, and all others less than 20.
        assert 0 < abs(float(loss)) < 100, name_of_part
        served = part.served_inputs(batch, keras.random.SeedGenerator(0))
        assert served["image"].shape[-1] == network.input["image"].shape[-1]
        assert set(served) == published_inputs(recipes.load(name), name_of_part, default=set(network.input))
        assert all(np.isfinite(value) for value in part.validate(network, packs).values())
        grid = part.preview_grid(network, packs)
        assert (grid.dtype, grid.ndim, grid.shape[-1]) == (np.uint8, 3, 3)


def test_tiles_of_the_photo_denoiser_have_room_for_the_limit_of_the_service() -> None:
    from app.imaging.limiter import REACH

    assert recipes.load("denoise_photo").reach == REACH


def test_the_photo_denoiser_serves_the_mean_of_two_networks_for_correlated_noise() -> None:
    recipe = recipes.load("denoise_photo")
    networks = {name: part.network() for name, part in recipe.parts.items()}
    served = recipe.served_networks(networks, Packs())
    assert {name for name in served if served[name] is networks[name]} == {"denoise", "estimate"}
    plain, blobs, mean = (one.get_weights() for one in (*list(networks.values())[:2], served["denoise_correlated"]))
    for values in zip(plain, blobs, mean, strict=True):
        np.testing.assert_allclose(values[2], (values[0] + values[1]) / 2, atol=1e-7)
