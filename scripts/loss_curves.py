"""Prints loss curves of training runs as charts for docs/comparison.md.

    python -m scripts.loss_curves OUT/dcgan_digits/dcgan OUT/dcgan_faces/dcgan

For a GAN: the sum of both losses, and the shares of real and generated pictures that the discriminator classifies as
real.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

POINTS = 12


def chart(folder: Path, names: list[str]) -> str:
    """Return a Mermaid chart of `names` in the log of a training run, each point the mean of a twelfth of its steps.

    Raises OSError if there is no log, and ValueError if it has no steps.
    """
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    if not lines:
        raise ValueError(f"{folder / 'log.jsonl'} has no steps yet")
    last = lines[-1]["step"]
    curves = []
    for name in names:
        found = [(line["step"], line[name]) for line in lines if name in line]
        bins = np.minimum([step * POINTS // last for step, _ in found], POINTS - 1)
        values = np.array([value for _, value in found])
        means = [values[bins == number].mean() for number in range(POINTS) if (bins == number).any()]
        curves.append(f"    line [{', '.join(f'{value:.3g}' for value in means)}]")
    head = ["```mermaid", "xychart-beta", f'    title "{folder.parent.name}: {", ".join(names)}"']
    return "\n".join([*head, f'    x-axis "steps" 0 --> {last}', *curves, "```"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="OUT/RECIPE/PART of a training run")
    for folder in parser.parse_args().folder:
        for names in (["loss"], ["real", "made"]):
            try:
                print(chart(folder, names) + "\n")
            except (OSError, ValueError) as error:
                raise SystemExit(
                    f"no log in {folder}, which must be OUT/RECIPE/PART of a training run: {error}"
                ) from None


if __name__ == "__main__":
    main()
