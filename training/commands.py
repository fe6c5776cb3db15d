"""The commands of `python -m training`, one function each."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from models.onednn import enable_onednn
from training.archive import ArchiveTooLarge
from training.data.packs import MissingPack, Packs, WrongPack
from training.evaluation.service import ServiceProblem
from training.recipe import BadInitialWeights, NotSupported, Recipe, UnknownRecipe, load, names, parts
from training.runs import NotTrained, find_weights, load_trained

if TYPE_CHECKING:
    import keras


VGG19 = "vgg19"
"""`publish` also accepts this name: the model of the perceptual metric, for the service's `method=optimize`."""


class CommandError(ValueError):
    """A command that cannot be carried out; the message says what to do instead."""


def list_recipes(options: argparse.Namespace, started: float) -> None:
    """Print every recipe with its parts, hours and packs."""
    for name in names():
        recipe = load(name)
        hours = ", ".join(f"{part} {settings.hours:.2g} h" for part, settings in recipe.parts.items())
        print(f"{name:28} {recipe.task}/{recipe.name}: {hours}; packs {', '.join(recipe.packs)}")


def train(options: argparse.Namespace, started: float) -> None:
    """Train every named part; --hours is for all of them together, shared as their own hours are."""
    from training.trainer import train as train_part

    wanted = [pair for name in options.recipes for pair in parts(name)]
    own = sum(recipe.parts[part_name].hours for recipe, part_name in wanted)
    factor = options.hours / own if options.hours else 1.0
    ends = started
    for recipe, part_name in wanted:
        begins = min(ends, time.monotonic())
        ends += recipe.parts[part_name].hours * factor * 3600
        train_part(
            recipe,
            part_name,
            Packs(options.data),
            options.out,
            started=begins,
            hours=(ends - begins) / 3600,
            resume=options.resume,
            weights=options.weights,
            seed=options.seed,
            batch=options.batch,
            rate=options.rate,
            precision=options.precision,
        )


def evaluate(options: argparse.Namespace, started: float) -> None:
    """Print the tables of training results, of a published model (--repository) or of a service (--url)."""
    for name in options.recipes:
        recipe = _load_whole(name)
        packs = Packs(options.data)
        if options.url:
            tables = recipe.evaluate_service(options.url, packs)
        else:
            tables = recipe.evaluate(_load_networks(recipe, options, packs), packs)
        for table in tables:
            print(table.text() + "\n")


def _load_whole(argument: str) -> Recipe:
    """Return the recipe of `NAME`; a single part has no tables and is not a model."""
    if ":" in argument:
        raise CommandError(f"{argument}: this command takes a whole recipe; leave out the part")
    return load(argument)


def _load_networks(recipe: Recipe, options: argparse.Namespace, packs: Packs) -> Mapping[str, keras.Model]:
    """Return the networks that are served: of the published model (--repository), or of training results."""
    if options.repository:
        return _load_published(recipe, options.repository)
    return recipe.served_networks(load_trained(recipe, options.out), packs)


def _load_published(recipe: Recipe, root: Path) -> dict[str, keras.Model]:
    """Return the newest published SavedModel of `recipe` below `root`, to be called like its networks."""
    from training.export.savedmodel import Published

    return dict(Published(_find_newest(recipe, root)))


def _find_newest(recipe: Recipe, root: Path) -> Path:
    """Return the folder of the newest published version of `recipe` below `root`."""
    below = root / recipe.task / recipe.name
    versions = sorted((int(path.name) for path in below.glob("*") if path.name.isdecimal()), reverse=True)
    if not versions:
        raise CommandError(
            f"{root} has no model {recipe.task}/{recipe.name}; run python -m training publish {recipe.id} first"
        )
    return below / str(versions[0])


def export(options: argparse.Namespace, started: float) -> None:
    """Write a SavedModel folder for each recipe below --to."""
    _require_tensorflow("export")
    from training.export.savedmodel import export as write

    for name in options.recipes:
        recipe = _load_whole(name)
        folder = options.to / recipe.task / recipe.name
        with _reraise_as_command_error(recipe.id):
            write(recipe, Packs(options.data), options.out, folder)
        print(folder)


def _require_tensorflow(command: str) -> None:
    """Raise CommandError where Keras runs on anything but TensorFlow, which alone writes SavedModels."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise CommandError(
            f"{command} needs TensorFlow; set KERAS_BACKEND=tensorflow (training results of other backends can be used)"
        )


@contextmanager
def _reraise_as_command_error(what: str) -> Iterator[None]:
    """Raise CommandError, naming `what`, for a SavedModel that differs from its network or that is refused."""
    from models.manifest import ManifestError
    from models.repository import RepositoryError
    from training.export.savedmodel import SavedModelMismatch

    try:
        yield
    except (ManifestError, SavedModelMismatch, RepositoryError) as error:
        raise CommandError(f"{what}: {error}") from None


def publish(options: argparse.Namespace, started: float) -> None:
    """Export, check, evaluate and put in the model repository; `vgg19`, which no recipe trains, is not evaluated."""
    _require_tensorflow("publish")
    from training.export import vgg19
    from training.export.publish import publish as put

    root = options.repository or Path("models/published")
    for name in options.recipes:
        if name == VGG19:
            try:
                with _reraise_as_command_error(name):
                    print(vgg19.publish(options.repository or Path("models/local"), options.weights))
            except vgg19.WeightsUnavailable as error:
                raise CommandError(f"cannot load the weights of VGG19: {error}") from None
            continue
        recipe = _load_whole(name)
        if not recipe.publishable:
            raise CommandError(f"{recipe.id} cannot be published: the service has no task {recipe.task!r}")
        with _reraise_as_command_error(recipe.id):
            print(put(recipe, Packs(options.data), options.out, root, default=options.default))


def quantize(options: argparse.Namespace, started: float) -> None:
    """Put each model with its 8-bit files, or with functions in bfloat16, in the model repository --to."""
    _require_tensorflow("quantize")
    from training.export.bfloat16 import BFloat16Rejected, add_bfloat16
    from training.export.eight_bit import PRECISIONS, QuantizationRejected
    from training.export.eight_bit import quantize as write

    precisions = [options.precision] if options.precision else PRECISIONS
    for name in options.recipes:
        recipe = _load_whole(name)
        folder = _find_newest(recipe, options.repository)
        if options.precision == "bfloat16":
            try:
                with _reraise_as_command_error(str(folder)):
                    print(add_bfloat16(recipe, Packs(options.data), folder, options.to))
            except BFloat16Rejected as error:
                raise CommandError(str(error)) from None
            continue
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise CommandError("quantize needs the package ai-edge-litert; run pip install ai-edge-litert")
        try:
            with _reraise_as_command_error(str(folder)):
                print(write(recipe, Packs(options.data), folder, options.to, precisions=precisions))
        except QuantizationRejected as error:
            raise CommandError(str(error)) from None


def pack(options: argparse.Namespace, started: float) -> None:
    """Write the dataset archive into --out."""
    from training.archive import write_archive

    if options.start and not options.start.is_dir():
        raise CommandError(f"model repository {options.start} does not exist")
    recipes = list(dict.fromkeys(name.partition(":")[0] for name in options.recipes))
    for line in write_archive(
        [load(name) for name in recipes], Packs(options.data), options.out, options.start, options.most
    ):
        print(line)


def sheet(options: argparse.Namespace, started: float) -> None:
    """Draw the preview grids of training, or with --to those of the whole model at full size."""
    from PIL import Image

    from training.checkpoints import load_initial_weights

    if options.to:
        _draw_full_size(options)
        return
    if options.repository:
        raise CommandError("--repository needs --to: the folder to write to")
    for name in options.recipes:
        for recipe, part_name in parts(name):
            weights = find_weights(recipe, part_name, options.out)
            network = recipe.parts[part_name].network()
            load_initial_weights(network, weights, part_name)
            Image.fromarray(recipe.parts[part_name].preview_grid(network, Packs(options.data))).save(
                weights.with_name("sheet.png")
            )
            print(weights.with_name("sheet.png"))


def _draw_full_size(options: argparse.Namespace) -> None:
    """Write the preview grids of whole models to folders below --to."""
    from PIL import Image

    packs = Packs(options.data)
    for name in options.recipes:
        recipe = _load_whole(name)
        folder = options.to / recipe.id
        for title, picture in recipe.preview_grids(_load_networks(recipe, options, packs), packs):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{title}.png")
            print(folder / f"{title}.png")


def sample(options: argparse.Namespace, started: float) -> None:
    """Draw samples of each trained generator."""
    from PIL import Image

    for name in options.recipes:
        recipe = _load_whole(name)
        if not recipe.is_generator:
            raise CommandError(f"{recipe.id} is not a generator; use sheet instead")
        target = options.out / recipe.id / "sample.png"
        Image.fromarray(recipe.sample(load_trained(recipe, options.out), options.seed)).save(target)
        print(target)


COMMANDS: dict[str, Callable[[argparse.Namespace, float], None]] = {
    "list": list_recipes,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "publish": publish,
    "quantize": quantize,
    "pack": pack,
    "sheet": sheet,
    "sample": sample,
}


EXPECTED_ERRORS = (
    FloatingPointError,
    MissingPack,
    BadInitialWeights,
    NotSupported,
    NotTrained,
    CommandError,
    ServiceProblem,
    ArchiveTooLarge,
    UnknownRecipe,
    WrongPack,
)
OWN_PACKAGES = {"models", "training"}
"""A module missing in these is a programming error, not a missing package."""


def run(options: argparse.Namespace, started: float) -> int:
    """Run the command that `options` names and return its exit status; an expected error is printed as one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    enable_onednn()
    try:
        COMMANDS[options.command](options, started)
    except EXPECTED_ERRORS as error:
        print(f"training: {error.args[0]}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN_PACKAGES:
            raise
        print(
            f"training: the package {error.name} is not installed; run make setup or pip install {error.name}",
            file=sys.stderr,
        )
        return 2
    except OSError as error:  # for example a folder without write permission, or a full disk
        print(f"training: {error}", file=sys.stderr)
        return 2
    return 0
