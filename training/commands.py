"""The commands of `python -m training`, one function each."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.packs import MissingPack, Packs, WrongPack
from training.pack import TooMuch
from training.recipe import NoStart, Recipe, UnknownRecipe, load, names, parts
from training.results import NotTrained, trained, weights_of

if TYPE_CHECKING:
    import keras

    from training.tables import Table


VGG19 = "vgg19"
"""What `publish` takes beside recipes: the judge of styles, for the service's `method=optimize`."""


class Refused(ValueError):
    """A command that cannot be carried out, with what to do instead."""


def list_recipes(options: argparse.Namespace, started: float) -> None:
    """Print every recipe with its parts, hours and packs."""
    for name in names():
        recipe = load(name)
        hours = ", ".join(f"{part} {settings.hours:.2g} h" for part, settings in recipe.parts.items())
        print(f"{name:28} {recipe.task}/{recipe.name}: {hours}; packs {', '.join(recipe.packs)}")


def train(options: argparse.Namespace, started: float) -> None:
    """Train every named part; --hours is for all of them together, shared as their own hours are."""
    from training.loop import train as train_part

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
    """Print the tables of training results, of a published model (--shelf) or of a service (--url)."""
    for name in options.recipes:
        for recipe in _whole(name):
            packs = Packs(options.data)
            if options.url:
                tables = _of_service(recipe, options.url, packs)
            elif options.repository:
                tables = recipe.evaluate(_published(recipe, options.repository), packs)
            else:
                tables = recipe.evaluate(recipe.serve(trained(recipe, options.out), packs), packs)
            for table in tables:
                print(table.text() + "\n")


def _of_service(recipe: Recipe, url: str, packs: Packs) -> list[Table]:
    from training.service import ServiceProblem

    if recipe.evaluate_service is None:
        raise Refused(f"{recipe.id} has no table for a service; leave --url out")
    try:
        return recipe.evaluate_service(url, packs)
    except ServiceProblem as error:
        raise Refused(str(error)) from None


def _whole(argument: str) -> list[Recipe]:
    """Return the recipe of `NAME`; a part of one has no tables and is no model."""
    if ":" in argument:
        raise Refused(f"{argument}: this command takes whole recipes, without a part")
    return [load(argument)]


def _published(recipe: Recipe, root: Path) -> dict[str, keras.Model]:
    """Return the newest published SavedModel of `recipe` below `shelf`, to be called like its networks."""
    from training.export.savedmodel import Published

    return dict(Published(_newest(recipe, root)))


def _newest(recipe: Recipe, root: Path) -> Path:
    """Return the folder of the newest published version of `recipe` below `shelf`."""
    below = root / recipe.task / recipe.name
    versions = sorted((int(path.name) for path in below.glob("*") if path.name.isdecimal()), reverse=True)
    if not versions:
        raise Refused(f"{root} holds no {recipe.task}/{recipe.name}: publish it first")
    return below / str(versions[0])


def export(options: argparse.Namespace, started: float) -> None:
    """Write a SavedModel folder for each recipe below --to."""
    _on_tensorflow("export")
    from training.export.savedmodel import export as write

    for name in options.recipes:
        for recipe in _whole(name):
            folder = options.to / recipe.task / recipe.name
            with _refusing(recipe.id):
                write(recipe, Packs(options.data), options.out, folder)
            print(folder)


def _on_tensorflow(command: str) -> None:
    """Raise Refused where Keras runs on anything but TensorFlow, which alone can write what it is to run."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise Refused(f"{command} needs TensorFlow: run it with KERAS_BACKEND=tensorflow, on the same results")


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Raise Refused, naming `what`, for a SavedModel that is not its network or that no shelf takes."""
    from models.manifest import ManifestError
    from models.repository import RepositoryError
    from training.export.savedmodel import NotTheSame

    try:
        yield
    except (ManifestError, NotTheSame, RepositoryError) as error:
        raise Refused(f"{what}: {error}") from None


def publish(options: argparse.Namespace, started: float) -> None:
    """Export, check, evaluate and put on the shelf; `vgg19`, which no recipe trains, as it is."""
    _on_tensorflow("publish")
    from training.export import vgg19
    from training.export.publish import publish as put

    root = options.repository or Path("models/published")
    for name in options.recipes:
        if name == VGG19:
            try:
                with _refusing(name):
                    print(vgg19.publish(options.repository or Path("models/local"), options.weights))
            except vgg19.NoWeights as error:
                raise Refused(f"the weights of VGG19 cannot be had: {error}") from None
            continue
        for recipe in _whole(name):
            if recipe.sample is not None:
                raise Refused(f"{recipe.id} is for training alone: the service has no task {recipe.task!r}")
            with _refusing(recipe.id):
                print(put(recipe, Packs(options.data), options.out, root, default=options.default))


def quantize(options: argparse.Namespace, started: float) -> None:
    """Put each model with its 8-bit variants on --to."""
    _on_tensorflow("quantize")
    from training.export.eight_bit import PRECISIONS, NotWorthIt
    from training.export.eight_bit import quantize as write

    precisions = [options.precision] if options.precision else PRECISIONS
    for name in options.recipes:
        for recipe in _whole(name):
            folder = _newest(recipe, options.repository)
            if importlib.util.find_spec("ai_edge_litert") is None:
                raise Refused("this needs the package ai-edge-litert: install the extra `litert`")
            try:
                with _refusing(str(folder)):
                    print(write(recipe, Packs(options.data), folder, options.to, precisions=precisions))
            except NotWorthIt as error:
                raise Refused(str(error)) from None


def pack(options: argparse.Namespace, started: float) -> None:
    """Write the kit into --out."""
    from training.pack import pack as write

    if options.start and not options.start.is_dir():
        raise Refused(f"{options.start} is no shelf: there is no such folder")
    recipes = list(dict.fromkeys(name.partition(":")[0] for name in options.recipes))
    for line in write([load(name) for name in recipes], Packs(options.data), options.out, options.start, options.most):
        print(line)


def sheet(options: argparse.Namespace, started: float) -> None:
    """Draw the contact sheets."""
    from PIL import Image

    from training.loop import start_from

    for name in options.recipes:
        for recipe, part_name in parts(name):
            weights = weights_of(recipe, part_name, options.out)
            network = recipe.parts[part_name].network()
            start_from(network, weights, part_name)
            Image.fromarray(recipe.parts[part_name].sheet(network, Packs(options.data))).save(
                weights.with_name("sheet.png")
            )
            print(weights.with_name("sheet.png"))


def sample(options: argparse.Namespace, started: float) -> None:
    """Draw what each trained recipe makes out of nothing."""
    from PIL import Image

    for name in options.recipes:
        for recipe in _whole(name):
            if recipe.sample is None:
                raise Refused(f"{recipe.id} makes nothing without a picture; `sheet` draws what it does with one")
            target = options.out / recipe.id / "sample.png"
            Image.fromarray(recipe.sample(trained(recipe, options.out), options.seed)).save(target)
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


FORESEEN = (FloatingPointError, MissingPack, NoStart, NotTrained, Refused, TooMuch, UnknownRecipe, WrongPack)
OURS = {"models", "training"}
"""Packages that are there, so that what is missing in them is a mistake of ours."""


def run(options: argparse.Namespace, started: float) -> int:
    """Run the command that `options` names and return its exit status; a foreseeable mistake is one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        COMMANDS[options.command](options, started)
    except FORESEEN as error:
        print(f"training: {error.args[0]}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        print(f"training: this needs the package {error.name}, which is not installed here", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be made or written, a disk that is full
        print(f"training: {error}", file=sys.stderr)
        return 2
    return 0
