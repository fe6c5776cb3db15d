"""The command line of the training package: `python -m training COMMAND …`."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path


def _above_zero(text: str) -> float:
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
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
"""Options of version 0.1 by command, and what replaces them, where the usage line does not make it plain."""


class _Renamed(argparse.Action):
    """An option of RENAMED_OPTIONS: refused with one line that names its replacement."""

    def __init__(self, option_strings: list[str], dest: str, new: str) -> None:
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.new = new

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(2, f"training: {self.option_strings[0]} is now {self.new}\n")


# argparse names the type in its error for a value that is no number.
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

    add_command("list", "every recipe, its parts and packs", recipes=None)
    train = add_command("train", "train recipes one after another, each for its share of --hours")
    train.add_argument("--hours", type=_above_zero, help="for everything named (default: each part's hours)")
    train.add_argument("--resume", action="store_true", help="resume from the state in --out")
    train.add_argument(
        "--from", dest="weights", type=Path, help="start from a .weights.h5 or a published model's folder"
    )
    train.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what to compute in; weights stay float32 (default: auto, which measures where bfloat16 may be faster)",
    )
    train.add_argument("--batch", type=_at_least_one, help="samples a batch (default: what suits two cores)")
    train.add_argument(
        "--rate", type=_above_zero, help="highest learning rate (default: the part's; less to fine-tune with --from)"
    )
    train.add_argument("--seed", type=_seed, default=0)
    evaluate = add_command("evaluate", "print the recipe's tables")
    evaluate.add_argument("--url", help="measure through a running service instead")
    evaluate.add_argument("--repository", type=Path, help="measure the newest published model below this folder")
    export = add_command("export", "write a SavedModel folder from training results")
    export.add_argument("--to", type=Path, required=True)
    publish = add_command("publish", "export, evaluate and put in the model repository as the next version")
    publish.add_argument("--repository", type=Path, help="default: models/published; for vgg19, models/local")
    publish.add_argument("--default", action="store_true", help="make it the default of its task")
    publish.add_argument(
        "--weights",
        type=Path,
        help="for vgg19: an .npz to use instead of the weights that keras.applications downloads",
    )
    quantize = add_command(
        "quantize", "put the newest published version in another repository, with its 8-bit files where they are faster"
    )
    quantize.add_argument("--repository", type=Path, default=Path("models/published"), help="default: models/published")
    quantize.add_argument("--to", type=Path, default=Path("models/local"), help="default: models/local")
    quantize.add_argument("--precision", choices=("int8", "dynamic"), help="try this alone (default: both in turn)")
    pack = add_command(
        "pack", "write the data that training these needs as a small dataset archive for another machine"
    )
    pack.add_argument(
        "--from", dest="start", type=Path, help="model repository whose newest models are included, to start from"
    )
    pack.add_argument(
        "--most", type=_above_zero, help="largest size of the archive in MiB (default: 40); a larger one is reduced"
    )
    add_command("sheet", "draw preview grids of training results")
    sample = add_command("sample", "draw samples of generators")
    sample.add_argument("--seed", type=_seed, default=0)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    started = time.monotonic()
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        usage = " ".join(options.parser.format_usage().split())
        options.parser.exit(2, f"training: {options.command} has no {unknown[0]}; {usage}\n")
    from training import commands

    return commands.run(options, started)
