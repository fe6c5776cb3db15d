"""What a recipe is: the shape that every file in `training/recipes` has."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np

    from training.data.packs import Packs
    from training.tables import Table

Batch = Mapping[str, "np.ndarray"]


class UnknownRecipe(KeyError):
    """A recipe, or a part of one, that is not there; the message names the nearest."""


class NoStart(ValueError):
    """Weights that a training cannot start from: not there, or of another network."""


@dataclass(frozen=True)
class Part:
    """One network of a model, trained and served under one name (`x2`, `denoise`, `estimate`).

    * `network()` builds what is served: a Keras model from named inputs to named outputs.
    * `loss(network, batch, seed)` degrades, runs and compares, all in `keras.ops`: the compiled step. `seed` is a
      `keras.random.SeedGenerator`. Returns a scalar.
    * `batches(packs, seed, batch)` makes batches of `batch` samples on the host: `make(index)` -> named arrays,
      thread-safe, any index. `batch` is what suits two cores; an accelerator takes more (`train --batch`).
    * `validate(network, packs)` measures a small fixed set: the first figure is the one on the progress line.
    * `sheet(network, packs)` draws what the figures do not show: uint8 (height, width, 3).
    * `momentum` is Adam's first; a GAN takes less.
    * `start` names the part of the same model whose weights a first training starts from, where names match.
    """

    network: Callable[[], keras.Model]
    loss: Callable[[keras.Model, Mapping[str, Any], Any], Any]
    batches: Callable[[Packs, int, int], Callable[[int], Batch]]
    validate: Callable[[keras.Model, Packs], dict[str, float]]
    sheet: Callable[[keras.Model, Packs], np.ndarray]
    batch: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    momentum: float = 0.9
    steps_per_epoch: int = 50
    ema: float = 0.99
    hours: float = 1.0
    start: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A model that can be trained, evaluated, exported and published.

    `evaluate(networks, packs)` returns the tables that the manifest carries; `evaluate_service(url, packs)` the
    same through a running service, where the model has such a table. `geometry` is the manifest's, with `halo` None
    where the export measures it. `weights` are files that training reads beside the packs (`Packs.weights`).
    `classes` are (id, name, colour), in the order of the network's answers; for one that answers with the foreground
    alone, background and foreground. `sample(networks, seed)` draws what a model makes out of nothing, where it does:
    uint8 (height, width, 3). Such a recipe is for training alone: it is never published. `inputs` are fields of the
    manifest's entries that are not what is usual, `defaults` the manifest's.

    A recipe that is made of what another one trains has its parts and names it as `trained_as`. What is published of
    the trained parts, where that is not the parts themselves, is made by `serve(networks, packs)`. `styles(packs)` are
    the presets of a model that knows some, as the manifest lists them; `files(networks, packs)` is what else lies in
    the model's folder, bytes by path, of the networks that are served.
    """

    task: str
    name: str
    title: str
    description: str
    architecture: str
    packs: tuple[str, ...]
    parts: dict[str, Part]
    geometry: dict[str, Any]
    evaluate: Callable[[Mapping[str, keras.Model], Packs], list[Table]]
    evaluate_service: Callable[[str, Packs], list[Table]] | None = None
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, int] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    classes: tuple[tuple[int, str, tuple[int, int, int]], ...] = ()
    sample: Callable[[Mapping[str, keras.Model], int], np.ndarray] | None = None
    card: str = ""
    trained_as: str = ""
    serve: Callable[[Mapping[str, keras.Model], Packs], Mapping[str, keras.Model]] = lambda networks, packs: networks
    styles: Callable[[Packs], list[dict[str, str]]] = lambda packs: []
    files: Callable[[Mapping[str, Any], Packs], dict[str, bytes]] = lambda networks, packs: {}

    @property
    def id(self) -> str:
        """The name of the recipe's file: `denoise_photo`."""
        return f"{self.task}_{self.name.replace('-', '_')}"

    @property
    def results(self) -> str:
        """The name of its folder of training results."""
        return self.trained_as or self.id

    def side(self, least: int) -> int:
        """Return the smallest side of at least `least` pixels that the networks take."""
        rule = self.geometry.get("size_rule") or {"modulus": self.geometry.get("multiple", 1), "remainder": 0}
        return int(least + (rule["remainder"] - least) % rule["modulus"])


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    from training import recipes

    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def load(name: str) -> Recipe:
    """Return recipe `name`. Raises UnknownRecipe that names the nearest."""
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise UnknownRecipe(f"no recipe {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {known}"))
    recipe: Recipe = importlib.import_module(f"training.recipes.{name}").recipe()
    return recipe


def parts(argument: str) -> Iterator[tuple[Recipe, str]]:
    """Yield (recipe, part name) for `NAME` (all parts in order) or `NAME:PART`. Raises UnknownRecipe."""
    name, _, wanted = argument.partition(":")
    recipe = load(name)
    if wanted and wanted not in recipe.parts:
        raise UnknownRecipe(f"recipe {name} has no part {wanted!r}; there are {list(recipe.parts)}")
    for part in recipe.parts:
        if not wanted or part == wanted:
            yield recipe, part
