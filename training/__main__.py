"""The workshop's door: `python -m training COMMAND …`."""

from __future__ import annotations

import argparse
import math
import sys
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


class _Renamed(argparse.Action):
    """An option that has another name now: refused with one line that says which."""

    def __init__(self, option_strings: list[str], dest: str, new: str) -> None:
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.new = new

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(2, f"training: {self.option_strings[0]} is now {self.new}\n")


# argparse calls a value that is no number by the name of its type.
_above_zero.__name__, _at_least_one.__name__, _seed.__name__ = "number", "whole number", "whole number"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, recipes: str | None = "+") -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        if recipes:
            made.add_argument("recipes", nargs=recipes, metavar="RECIPE[:PART]")
        made.add_argument("--data", type=Path, help="folder of data packs (default: RESTORE_DATA_PACKS, else data/)")
        made.add_argument("--out", type=Path, default=Path("runs"), help="folder of training results (default: runs/)")
        return made

    command("list", "every recipe, its parts and packs", recipes=None)
    train = command("train", "train recipes one after another, each for its share of --hours")
    train.add_argument("--hours", type=_above_zero, help="for everything named (default: each part's own)")
    train.add_argument("--resume", action="store_true", help="go on from the state in --out")
    train.add_argument(
        "--from", dest="weights", type=Path, help="start from a .weights.h5 or a published model's folder"
    )
    train.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what to compute in; weights stay float32 (default: auto, which measures where bfloat16 may be faster)",
    )
    train.add_argument("--bfloat16", action=_Renamed, new="--precision bfloat16")
    train.add_argument("--batch", type=_at_least_one, help="samples a batch (default: what suits two cores)")
    train.add_argument(
        "--rate", type=_above_zero, help="highest learning rate (default: the part's; less to go on with --from)"
    )
    train.add_argument("--seed", type=_seed, default=0)
    evaluate = command("evaluate", "print the recipe's tables")
    evaluate.add_argument("--url", help="measure through a running service instead")
    evaluate.add_argument("--shelf", action=_Renamed, new="--repository")
    evaluate.add_argument("--repository", type=Path, help="measure the newest published model below this folder")
    export = command("export", "write a SavedModel folder from training results")
    export.add_argument("--to", type=Path, required=True)
    publish = command("publish", "export, evaluate and put in the model repository as the next version")
    publish.add_argument("--shelf", action=_Renamed, new="--repository")
    publish.add_argument("--repository", type=Path, help="default: models/published; for vgg19, models/local")
    publish.add_argument("--default", action="store_true", help="make it the default of its task")
    publish.add_argument(
        "--weights", type=Path, help="of vgg19: an .npz to take instead of what keras.applications downloads"
    )
    quantize = command(
        "quantize", "put the newest published version in another repository with what is faster in 8 bit"
    )
    quantize.add_argument("--shelf", action=_Renamed, new="--repository")
    quantize.add_argument("--repository", type=Path, default=Path("models/published"), help="default: models/published")
    quantize.add_argument("--to", type=Path, default=Path("models/local"), help="default: models/local")
    quantize.add_argument("--precision", choices=("int8", "dynamic"), help="try this alone (default: both in turn)")
    pack = command("pack", "write what training these needs as a small kit for another machine")
    pack.add_argument(
        "--from", dest="start", type=Path, help="model repository whose newest models go along, to start from"
    )
    pack.add_argument("--most", type=_above_zero, help="MiB that may travel (default: 40); what is more is reduced")
    sheet = command("sheet", "draw the contact sheets of training results")
    sample = command("sample", "draw what generators make out of nothing")
    sample.add_argument("--seed", type=_seed, default=0)
    del pack, sheet
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    from training import commands

    return commands.run(options, started)


if __name__ == "__main__":
    sys.exit(main())
