"""The commands of `python -m training`, one function each."""

from __future__ import annotations

import argparse
import time

from training.data.packs import Packs
from training.recipe import Part, Recipe, load, names, parts


class Refused(ValueError):
    """A command that cannot be carried out, with what to do instead."""


def list(options: argparse.Namespace, started: float) -> None:
    """Print every recipe with its parts, hours and packs."""
    for name in names():
        recipe = load(name)
        hours = ", ".join(f"{part} {settings.hours:g} h" for part, settings in recipe.parts.items())
        print(f"{name:28} {recipe.task}/{recipe.name}: {hours}; packs {', '.join(recipe.packs)}")


def train(options: argparse.Namespace, started: float) -> None:
    """Train every named part; --hours is for all of them together, shared as their own hours are."""
    import keras

    from training.loop import train as train_part

    if options.bfloat16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    wanted = [pair for name in options.recipes for pair in parts(name)]
    own = sum(_part(pair).hours for pair in wanted)
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
        )


def _part(pair: tuple[Recipe, str]) -> Part:
    recipe, part_name = pair
    return recipe.parts[part_name]


def evaluate(options: argparse.Namespace, started: float) -> None:
    """Print the tables of training results, of a published model (--shelf) or of a service (--url)."""
    from training import evaluate as protocol

    for name in options.recipes:
        for table in protocol.tables(load(name), Packs(options.data), options.out, options.url, options.shelf):
            print(table.text() + "\n")


def export(options: argparse.Namespace, started: float) -> None:
    """Write a SavedModel folder."""
    from models import manifest as contract
    from training.export.publish import export as write

    for name in options.recipes:
        contract.write(write(load(name), Packs(options.data), options.out, options.to), options.to)


def publish(options: argparse.Namespace, started: float) -> None:
    """Export, evaluate and publish."""
    from training.export.publish import publish as put

    for name in options.recipes:
        put(load(name), Packs(options.data), options.out, options.shelf, default=options.default)


def pack(options: argparse.Namespace, started: float) -> None:
    """Write the kit."""
    from training.pack import pack as write

    write([load(name) for name in options.recipes], Packs(options.data), options.out, options.weights)


def sheet(options: argparse.Namespace, started: float) -> None:
    """Draw the contact sheets."""
    from PIL import Image

    from training.loop import start_from

    for name in options.recipes:
        for recipe, part_name in parts(name):
            folder = options.out / recipe.id / part_name
            weights = folder / "weights.weights.h5"
            if not weights.is_file():
                raise Refused(f"{weights} is not there: train {recipe.id}:{part_name} first")
            network = recipe.parts[part_name].network()
            start_from(network, weights, part_name)
            Image.fromarray(recipe.parts[part_name].sheet(network, Packs(options.data))).save(folder / "sheet.png")
            print(folder / "sheet.png")
