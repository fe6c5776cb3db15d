"""A kit: the little that training some recipes needs, to take to a machine that has nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.data.packs import Packs
from training.recipe import Recipe

MOST_MEBIBYTES = 40


class TooMuch(ValueError):
    """A kit that is larger than what may travel; the message says by how much."""


def pack(recipes: Iterable[Recipe], packs: Packs, out: Path, start: Path | None = None) -> Iterator[str]:
    """Write the kit into `out`, which `train --data` takes as it takes the packs themselves; yield a line a recipe.

    It holds the packs' files but their `test` folders, as they are: their JPEG and WebP are smaller than anything
    decoded; and the weights that it reads. `start` is a shelf (`models/published`): the newest version of each
    recipe's model goes along as `start/<recipe>/<part>.npz` in float16, for `train --from <kit>/start`. Raises TooMuch
    over 40 MiB a recipe.
    """
    for recipe in recipes:
        size = 0
        for source in (file for name in recipe.packs for file in _files(packs.folder(name))):
            target = out / source.relative_to(packs.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            size += source.stat().st_size
        for name in recipe.weights:
            target = out / "weights" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            size += Path(shutil.copyfile(packs.weights(name), target)).stat().st_size
        if start is not None:
            size += sum(path.stat().st_size for path in _start(recipe, start, out / "start" / recipe.id))
        if size > MOST_MEBIBYTES * 2**20:
            raise TooMuch(f"the kit of {recipe.id} has {size / 2**20:.1f} MiB; {MOST_MEBIBYTES} may travel")
        yield f"{recipe.id}: {size / 2**20:.1f} MiB in {out}"


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.is_file() and inside.parts[0] != "test" and not file.name.startswith("t10k"):
            yield file


def _start(recipe: Recipe, shelf: Path, folder: Path) -> Iterator[Path]:
    from training.export.variables import read_variables

    versions = sorted((shelf / recipe.task / recipe.name).glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for part in recipe.parts:
        target = folder / f"{part}.npz"
        arrays: dict[str, Any] = {k: v.astype(np.float16) for k, v in read_variables(versions[-1], part).items()}
        np.savez(target, **arrays)
        yield target
