"""A kit: the little that training some recipes needs, to take to a machine that has nothing else."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from training.data.crops import HELD_OUT_EVERY
from training.data.packs import PICTURES, Packs, read_rgb
from training.recipe import Recipe
from training.stretches import RUN, before

MOST_MEBIBYTES = 40
EXACT = {"denoise", "superres"}
"""The tasks that learn from exact pixels: what a lossy file leaves out they would learn to leave out."""
LOSSY = {".jpg", ".jpeg", ".webp"}
"""Photographs. PNG are labels and masks."""
QUALITIES = (90, 85, 80, 75, 70)
WORTH = 0.9
"""A photograph that WebP makes less than a tenth smaller goes along as it is."""

Files = Mapping[str, bytes]
"""What lies in a kit, by its path there."""


class TooMuch(ValueError):
    """A kit that is larger than what may travel; the message says by how much."""


def pack(
    recipes: Iterable[Recipe], packs: Packs, out: Path, start: Path | None = None, most: float | None = None
) -> Iterator[str]:
    """Write the kit into `out`, which `train --data` takes as it takes the packs themselves; yield what it holds.

    It holds the packs' files but their `test` folders, and the weights that training reads. `start` is a shelf
    (`models/published`): the newest version of each recipe's model goes along as `start/<recipe>/<part>.npz` in
    float16, for `train --from <kit>/start`.

    A kit of more than `most` MiB (40) is made smaller, as little as will do: first photographs that no recipe of the
    kit learns exact pixels from become WebP, of quality 90 or less, then pictures of `train` stay behind, at most
    every other one. Raises TooMuch where that is not enough, and FileExistsError where `out` holds something already;
    then nothing is written.
    """
    recipes, most = list(recipes), MOST_MEBIBYTES if most is None else most
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: a kit wants a folder of its own")
    own = {recipe.id: dict(_read(recipe, packs, start)) for recipe in recipes}
    files: Files = {path: data for kit in own.values() for path, data in kit.items()}
    exact = {name for recipe in recipes if recipe.task in EXACT for name in recipe.packs}
    packed, told = _reduced(files, exact, most)
    if _mebibytes(packed) > most:
        names = ", ".join(own)
        raise TooMuch(f"the kit of {names} has {_mebibytes(packed):.1f} MiB at its smallest; {most:g} may travel")
    for path, data in packed.items():
        target = out / _name(path, data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    yield from told
    for name, kit in own.items():
        size = _mebibytes({path: data for path, data in packed.items() if path in kit})
        yield f"{name}: {size:.1f} MiB in {out}"


def _mebibytes(files: Files) -> float:
    return sum(map(len, files.values())) / 2**20


def _read(recipe: Recipe, packs: Packs, start: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield (path in the kit, bytes) of everything that training `recipe` reads."""
    for source in (file for name in recipe.packs for file in _files(packs.folder(name))):
        yield source.relative_to(packs.root).as_posix(), source.read_bytes()
    for name in recipe.weights:
        yield f"weights/{name}", packs.weights(name).read_bytes()
    if start is not None:
        for name, data in _start(recipe, start):
            yield f"start/{recipe.id}/{name}", data


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.is_file() and inside.parts[0] != "test" and not file.name.startswith("t10k"):
            yield file


def _start(recipe: Recipe, root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the weights of the newest version, and a run's facts that say what went before."""
    from training.export.variables import read_variables

    versions = sorted((root / recipe.task / recipe.name).glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        return
    for part in recipe.parts:
        arrays: dict[str, Any] = {k: v.astype(np.float16) for k, v in read_variables(versions[-1], part).items()}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        yield f"{part}.npz", file.getvalue()
    yield RUN, json.dumps({"before": before(versions[-1])}).encode()


def _reduced(files: Files, exact: set[str], most: float) -> tuple[Files, list[str]]:
    """Return `files` with as little done to them as brings them to `most` MiB, or all that may be, and it in words.

    The packs in `exact` keep their pixels.
    """
    photographs = {
        path: data
        for path, data in files.items()
        if PurePosixPath(path).suffix.lower() in LOSSY and PurePosixPath(path).parts[0] not in exact
    }
    packed, told = dict(files), []
    for quality in QUALITIES if photographs else ():
        if _mebibytes(packed) <= most:
            break
        smaller = _encoded(photographs, quality)
        packed = {**files, **smaller}
        size = _mebibytes({path: files[path] for path in smaller})
        names = ", ".join(dict.fromkeys(PurePosixPath(path).parts[0] for path in smaller))
        became = f"{size:.1f} MiB became {_mebibytes(smaller):.1f}"
        told = [f"{len(smaller)} photographs of {names} as WebP of quality {quality}: {became}"] if smaller else []
    left: dict[str, int] = defaultdict(int)
    for folder, run in _runs(packed):
        if _mebibytes(packed) <= most:
            break
        packed = {path: data for path, data in packed.items() if path not in run}
        left[folder] += len(run)
    return packed, told + [f"{count} pictures of {folder} stay behind" for folder, count in left.items()]


def _encoded(photographs: Files, quality: int) -> dict[str, bytes]:
    """Return those of the files that are worth it as WebP of `quality`."""

    def webp(data: bytes) -> bytes:
        file = io.BytesIO()
        Image.fromarray(read_rgb(io.BytesIO(data))).save(file, "webp", quality=quality)
        return file.getvalue()

    with ThreadPoolExecutor(4) as pool:
        found = zip(photographs.items(), pool.map(webp, photographs.values()), strict=True)
        return {path: smaller for (path, data), smaller in found if len(smaller) < WORTH * len(data)}


def _runs(files: Files) -> Iterator[tuple[str, set[str]]]:
    """Yield (folder, paths) of what may stay behind, the most bytes first.

    It is taken from folders `train` without labels in runs that begin with a held-out picture, so that what is held
    out of the rest is what was.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files):
        at = PurePosixPath(path)
        if at.parent.name == "train" and at.suffix.lower() in PICTURES:
            folders[str(at.parent)].append(path)
    found = []
    for folder, paths in folders.items():
        runs = [set(paths[first : first + HELD_OUT_EVERY]) for first in range(0, len(paths), HELD_OUT_EVERY)]
        runs.sort(key=lambda run: sum(len(files[path]) for path in run), reverse=True)
        found += [(folder, run) for run in runs[: len(runs) // 2]]
    yield from sorted(found, key=lambda one: sum(len(files[path]) for path in one[1]), reverse=True)


def _name(path: str, data: bytes) -> PurePosixPath:
    """Return what a file is called in the kit: as before, but for what has become WebP."""
    at = PurePosixPath(path)
    return at.with_suffix(".webp") if at.suffix.lower() in LOSSY and data[8:12] == b"WEBP" else at
