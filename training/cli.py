"""The command line of the training package: `python -m training COMMAND …`."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path


def _above_zero(text: str) -> float:
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"must be greater than 0, not {text}")
    return number


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 4294967295, not {text}")
    return number


RENAMED_OPTIONS = {"train": {"--bfloat16": "--precision bfloat16"}}
"""Options of version 0.1 by command, and what replaces them, if the usage line does not show it."""


class _Renamed(argparse.Action):
    """An option of RENAMED_OPTIONS: refused with one line that gives its replacement."""

    def __init__(self, option_strings: list[str], dest: str, new: str) -> None:
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.new = new

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(2, f"training: {self.option_strings[0]} is now {self.new}\n")


# argparse shows these names in its error for an invalid number.
_above_zero.__name__, _at_least_one.__name__, _seed.__name__ = "number", "whole number", "whole number"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add_command(name: str, text: str, *, recipes: str | None = "+") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        if recipes:
            command.add_argument("recipes", nargs=recipes, metavar="RECIPE[:PART]")
        command.add_argument("--data", type=Path, help="folder of data packs (default: RESTORE_DATA_PACKS, else data/)")
        command.add_argument(
            "--out", type=Path, default=Path("runs"), help="folder of training results (default: runs/)"
        )
        for option, new in RENAMED_OPTIONS.get(name, {}).items():
            command.add_argument(option, action=_Renamed, new=new)
        command.set_defaults(parser=command)
        return command

    add_command("list", "list all recipes with their parts, hours and data packs", recipes=None)
    train = add_command("train", "train recipes one after another, each with its share of --hours")
    train.add_argument("--hours", type=_above_zero, help="total for all recipes (default: the hours of each part)")
    train.add_argument("--resume", action="store_true", help="resume from the training state in --out")
    train.add_argument(
        "--from",
        dest="weights",
        type=Path,
        help="initial weights: a .weights.h5 or .npz file, or the folder of a published model",
    )
    train.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="precision of the computation; weights stay float32 (default: auto, which uses bfloat16 if it is faster)",
    )
    train.add_argument(
        "--batch", type=_at_least_one, help="batch size (default: that of the part, chosen for two cores)"
    )
    train.add_argument(
        "--rate",
        type=_above_zero,
        help="peak learning rate (default: that of the part; use a lower one to fine-tune with --from)",
    )
    train.add_argument("--seed", type=_seed, default=0, help="random seed (default: 0)")
    evaluate = add_command("evaluate", "print the quality tables of a recipe")
    evaluate.add_argument("--url", help="evaluate through the service at this address")
    evaluate.add_argument("--repository", type=Path, help="evaluate the newest version in this model repository")
    export = add_command("export", "write a trained model as a SavedModel folder")
    export.add_argument("--to", type=Path, required=True, help="folder to write to")
    publish = add_command(
        "publish", "export and evaluate a trained model, and add it to the model repository as the next version"
    )
    publish.add_argument(
        "--repository", type=Path, help="model repository (default: models/published; for vgg19, models/local)"
    )
    publish.add_argument("--default", action="store_true", help="make it the default model of its task")
    publish.add_argument(
        "--weights",
        type=Path,
        help="for vgg19: .npz file with the weights (default: download them with keras.applications)",
    )
    quantize = add_command(
        "quantize",
        "write the newest published version to another model repository: in 8 bit if that is faster, or with functions "
        "in bfloat16",
    )
    quantize.add_argument(
        "--repository",
        type=Path,
        default=Path("models/published"),
        help="model repository to read (default: models/published)",
    )
    quantize.add_argument(
        "--to", type=Path, default=Path("models/local"), help="model repository to write (default: models/local)"
    )
    quantize.add_argument(
        "--precision",
        choices=("int8", "dynamic", "bfloat16"),
        help="kind of 8 bit, or bfloat16 (default: try int8, then dynamic)",
    )
    pack = add_command(
        "pack", "write a dataset archive: the files that training these recipes on another machine needs"
    )
    pack.add_argument(
        "--from", dest="start", type=Path, help="include the newest models of this model repository as initial weights"
    )
    pack.add_argument(
        "--most", type=_above_zero, help="maximum size of the archive in MiB (default: 40); a larger archive is reduced"
    )
    sheet = add_command("sheet", "draw preview grids of trained models")
    sheet.add_argument("--to", type=Path, help="draw the whole model's at full size, and write them to this folder")
    sheet.add_argument("--repository", type=Path, help="with --to: of the newest version in this model repository")
    sample = add_command("sample", "draw samples of trained generators")
    sample.add_argument("--seed", type=_seed, default=0, help="random seed (default: 0)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    started = time.monotonic()
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        usage = " ".join(options.parser.format_usage().split())
        options.parser.exit(2, f"training: {options.command} has no option {unknown[0]}; {usage}\n")
    from training import commands

    return commands.run(options, started)
