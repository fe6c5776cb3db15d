"""What training left in its folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from training.recipe import Recipe

if TYPE_CHECKING:
    import keras


class NotTrained(FileNotFoundError):
    """A part without training results of its own network; the message says how to get them."""


def weights_of(recipe: Recipe, part: str, out: Path) -> Path:
    """Return the file of a part's averaged weights. Raises NotTrained."""
    weights = out / recipe.results / part / "weights.weights.h5"
    if not weights.is_file():
        raise NotTrained(f"{weights} is not there: python -m training train {recipe.id}:{part} --out {out}")
    return weights


def trained(recipe: Recipe, out: Path) -> dict[str, keras.Model]:
    """Return the network of each part with its averaged weights from `out`. Raises NotTrained."""
    from training.loop import start_from

    networks = {}
    for name, part in recipe.parts.items():
        weights = weights_of(recipe, name, out)
        networks[name] = part.network()
        if start_from(networks[name], weights, name) < len(networks[name].weights):
            raise NotTrained(f"{weights} is of another network than {recipe.id}:{name} has now: train it again")
    return networks
