"""The base classes of recipes: a file in `training/recipes` subclasses `Recipe` once, and `Part` for each network."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import keras
    import numpy as np

    from training.data.packs import Packs
    from training.evaluation.tables import ResultTable

Batch = Mapping[str, "np.ndarray"]


class UnknownRecipe(KeyError):
    """A recipe, or a part of one, that does not exist; the message names the nearest."""


class BadInitialWeights(ValueError):
    """Weights that a training cannot start from: the file is missing, or belongs to another network."""


class NotSupported(ValueError):
    """Something that this recipe does not do; the message says what to do instead."""


class _NetworkCalled(Exception):
    """Raised where a loss calls its network; the argument is what it calls it with."""


class Start(NamedTuple):
    """Other people's weights that training starts from."""

    name: str
    licence: str
    """The licence's short name."""
    text: str
    """The file below `training/licences` with its text, which the published model carries."""


class Part:
    """One network of a model, trained and served under one name (`x2`, `denoise`, `estimate`).

    Subclasses define the methods and override the attributes that differ.
    """

    batch = 16
    """Samples in a batch. The default suits two cores; an accelerator takes more (`train --batch`)."""
    learning_rate = 5e-4
    """The highest learning rate of the schedule."""
    warm_up_steps = 100
    """Steps until the learning rate is at its highest. Adam's first steps are as large in every weight, whatever its
    slope: a network that starts from good weights needs more of them, and a lower rate, not to lose what it has."""
    weight_decay = 0.0
    momentum = 0.9
    """Adam's first momentum; a GAN takes less."""
    steps_per_epoch = 50
    ema = 0.99
    """The momentum of the exponential moving average of the weights."""
    hours = 1.0
    """How long `train` takes by default."""
    bfloat16 = False
    """Whether the service may compute it in bfloat16: set it where the difference was measured
    (`tests/published/test_bfloat16.py`)."""
    eight_bit = True
    """Whether `quantize` tries it in 8 bit: not where it takes no time beside the others."""
    first_weights: tuple[str, ...] = ()
    """Files of weights (`Packs.weights`) that a first training without --from starts from, one after the other."""
    start: str | None = None
    """The part of the same model whose weights a first training starts from, where names match."""

    def __init__(self) -> None:
        self._held_out: dict[Path, Any] = {}

    def network(self) -> keras.Model:
        """Return a new network, as it is served: a Keras model from named inputs to named outputs."""
        raise NotImplementedError

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `make(index)`, which makes batch number `index` of `batch` samples on the host.

        `make` is thread-safe, takes any index, and returns the same named arrays for the same index.
        """
        raise NotImplementedError

    def convert_weights(self, stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the arrays of an `.npz` to start from under this network's names; by default they have them."""
        return stored

    def prepare(self, network: keras.Model, packs: Packs) -> None:
        """Set weights that need no steps, once before the first step of a first training; by default none."""

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the scalar loss of one batch: degrade, run and compare, all in `keras.ops` (the compiled step)."""
        raise NotImplementedError

    def served_inputs(self, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Mapping[str, Any]:
        """Return the inputs of the published network for a batch; by default those that `loss` calls its network with.

        Override it where `loss` takes layers of the network, or where the published network has other inputs.
        """

        def network(inputs: Mapping[str, Any]) -> None:
            raise _NetworkCalled(inputs)

        try:
            self.loss(network, batch, seed)  # type: ignore[arg-type]
        except _NetworkCalled as called:
            return cast("Mapping[str, Any]", called.args[0])
        raise NotSupported(f"the loss of {type(self).__name__} does not call its network; override served_inputs")

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return figures of `network`, or of the published one, on a small fixed set; the first is the one on the
        progress line."""
        raise NotImplementedError

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return a picture, uint8 (height, width, 3), of what the figures do not show."""
        raise NotImplementedError

    def in_bfloat16(self, network: keras.Model, samples: Callable[[], Mapping[str, np.ndarray]]) -> keras.Model | None:
        """Return a network with the answers of `network` that loses little in bfloat16, fitted to `samples()` of its
        inputs; by default None, as for a network that may be computed in it as it is (`bfloat16`)."""
        return None

    def load_held_out(self, packs: Packs) -> Any:
        """Return the fixed samples that `validate` and `preview_grid` use; training never sees them."""
        raise NotImplementedError

    def held_out(self, packs: Packs) -> Any:
        """Return `load_held_out(packs)`, loaded once."""
        if packs.root not in self._held_out:
            self._held_out[packs.root] = self.load_held_out(packs)
        return self._held_out[packs.root]


class Recipe:
    """A model that can be trained, evaluated, exported and published.

    The class's file gives its name: `denoise_photo.py` is the recipe `denoise_photo` of the model `denoise/photo`.
    """

    title: str
    description: str
    architecture: str
    packs: tuple[str, ...]
    """The data packs that training reads."""
    weights: tuple[str, ...] = ()
    """Files of weights that training reads beside the packs (`Packs.weights`)."""
    starts: tuple[Start, ...] = ()
    """What training starts from that is not ours."""
    geometry: dict[str, Any]
    """The manifest's, with `halo` None where the export measures it."""
    reach = 0
    """How many pixels beyond those that the networks see the task itself looks at: the halo is larger by as much."""
    inputs: dict[str, dict[str, Any]] = {}
    """Fields of the manifest's inputs and outputs that differ from the usual ones."""
    defaults: dict[str, int] = {}
    """The manifest's."""
    classes: tuple[tuple[int, str, tuple[int, int, int]], ...] = ()
    """(id, name, color), in the order of the network's output; for a binary model, background and foreground."""
    card = ""
    """A paragraph for the model card."""
    trained_as = ""
    """The recipe whose parts and training results this one uses; its own where empty."""
    is_generator = False
    """True for a model that draws pictures without input: it has `sample`."""
    publishable = True
    """False for a model that the service has no task for."""

    def __init__(self, recipe_id: str = "") -> None:
        self.id = recipe_id or type(self).__module__.rpartition(".")[2]
        task, _, name = self.id.partition("_")
        self.task, self.name = task, name.replace("_", "-")
        self.parts = self.build_parts()

    def build_parts(self) -> dict[str, Part]:
        """Return the parts by name, in the order of training."""
        raise NotImplementedError

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables that the manifest carries; `networks` are those of `served_networks`."""
        raise NotImplementedError

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables measured through the service at `url`. Raises NotSupported, ServiceProblem."""
        raise NotSupported(f"{self.id} cannot be evaluated through a service; leave out --url")

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the networks that are published, made of the trained ones; by default those themselves."""
        return networks

    def preview_grids(self, networks: Mapping[str, Any], packs: Packs) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, uint8 RGB): what the model makes of pictures, at full size. Raises NotSupported."""
        raise NotSupported(f"{self.id} has no preview grids at full size; leave out --to")

    def sample(self, networks: Mapping[str, keras.Model], seed: int) -> np.ndarray:
        """Return a grid of pictures that a generator makes, uint8 (height, width, 3)."""
        raise NotImplementedError

    def styles(self, packs: Packs) -> list[dict[str, str]]:
        """Return the presets of a style model, as the manifest lists them."""
        return []

    def files(self, networks: Mapping[str, Any], packs: Packs) -> dict[str, bytes]:
        """Return more files for the model's folder, bytes by path; `networks` are the served ones."""
        return {}

    @property
    def command(self) -> str:
        """The command that reproduces the recipe's tables."""
        return f"python -m training evaluate {self.id}"

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
        raise UnknownRecipe(
            f"no recipe {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"the recipes are {known}")
        )
    module = importlib.import_module(f"training.recipes.{name}")
    (recipe,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Recipe) and value.__module__ == module.__name__
    )
    return recipe()


def parts(argument: str) -> Iterator[tuple[Recipe, str]]:
    """Yield (recipe, part name) for `NAME` (all parts in order) or `NAME:PART`. Raises UnknownRecipe."""
    name, _, wanted = argument.partition(":")
    recipe = load(name)
    if wanted and wanted not in recipe.parts:
        raise UnknownRecipe(f"recipe {name} has no part {wanted!r}; its parts are {', '.join(recipe.parts)}")
    for part in recipe.parts:
        if not wanted or part == wanted:
            yield recipe, part
