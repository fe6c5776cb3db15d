"""Training results on disk: the trained weights, and the history of the runs that made them.

A model may be trained in several runs, each starting from what the one before made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.recipe import Recipe

if TYPE_CHECKING:
    import keras

RUN = "run.json"
"""The file in a part's folder of results that describes its training run."""
PREVIOUS_RUNS = "previous_runs"
"""The key in `run.json`; files of version 0.1 call it `before`."""

PastRun = tuple[str, float, int]
"""(what was trained, hours, steps)."""


class NotTrained(FileNotFoundError):
    """A part without training results of its own network; the message says how to get them."""


def previous_runs(source: Path) -> list[PastRun]:
    """Return the runs that made `source`, which a training starts from: a published model's folder, or weights.

    Those of weights are in the `run.json` beside them. Without such a file the list is empty.
    """
    try:
        if source.is_dir():
            made = json.loads((source / "manifest.json").read_text(encoding="utf-8"))["provenance"]
            return [("/".join(source.parts[-3:]), made["hours"], made["steps"])]
        run = json.loads((source.parent / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    # A dataset archive has no run of its own, only previous ones.
    own = [(source.parent.name, run["seconds"] / 3600, run["steps"])] if "steps" in run else []
    return [*read_previous_runs(run), *own]


def read_previous_runs(run: dict[str, Any]) -> list[PastRun]:
    """Return the previous runs that the content of a `run.json` lists; old files may list none."""
    return [(name, hours, steps) for name, hours, steps in run.get(PREVIOUS_RUNS, run.get("before", []))]


def find_weights(recipe: Recipe, part: str, out: Path) -> Path:
    """Return the file of a part's averaged weights. Raises NotTrained."""
    weights = out / recipe.results / part / "weights.weights.h5"
    if not weights.is_file():
        raise NotTrained(f"{weights} does not exist; run python -m training train {recipe.id}:{part} --out {out}")
    return weights


def load_trained(recipe: Recipe, out: Path) -> dict[str, keras.Model]:
    """Return the network of each part with its averaged weights from `out`. Raises NotTrained."""
    from training.checkpoints import load_initial_weights

    networks: dict[str, keras.Model] = {}
    for name, part in recipe.parts.items():
        weights = find_weights(recipe, name, out)
        networks[name] = part.network()
        if load_initial_weights(networks[name], weights, name) < len(networks[name].weights):
            raise NotTrained(f"{weights} does not fit the current network of {recipe.id}:{name}; train it again")
    return networks
