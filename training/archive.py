"""Dataset archives: the least that training some recipes needs, to copy to a machine that has nothing else."""

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
from training.runs import PREVIOUS_RUNS, RUN, previous_runs

MAX_MEBIBYTES = 40
EXACT = {"denoise", "superres"}
"""The tasks that learn from exact pixels: from lossy files they would learn to reproduce the loss."""
LOSSY = {".jpg", ".jpeg", ".webp"}
"""Photographs. PNG are labels and masks."""
QUALITIES = (90, 85, 80, 75, 70)
WEBP_GAIN = 0.9
"""A photograph that WebP makes less than a tenth smaller is copied as it is."""

Files = Mapping[str, bytes]
"""The content of an archive, by path."""


class ArchiveTooLarge(ValueError):
    """An archive that is larger than allowed; the message says by how much."""


def write_archive(
    recipes: Iterable[Recipe], packs: Packs, out: Path, start: Path | None = None, most: float | None = None
) -> Iterator[str]:
    """Write the archive into `out`, which `train --data` reads as it reads the packs; yield lines about its content.

    It holds the packs' files without their `test` folders, and the weights that training reads. `start` is a model
    repository (`models/published`): the newest version of each recipe's model is included as
    `start/<recipe>/<part>.npz` in float16, for `train --from <archive>/start`.

    An archive of more than `most` MiB (40) is reduced, no more than needed: first, photographs become WebP of quality
    90 or less, where no recipe of the archive learns exact pixels from them; then pictures of `train` are left out, at
    most every other one. Raises ArchiveTooLarge where that is not enough, and FileExistsError where `out` is not empty;
    then nothing is written.
    """
    recipes, most = list(recipes), MAX_MEBIBYTES if most is None else most
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; choose an empty folder with --out")
    own = {recipe.id: dict(_read(recipe, packs, start)) for recipe in recipes}
    files: Files = {path: data for files_of_one in own.values() for path, data in files_of_one.items()}
    exact = {name for recipe in recipes if recipe.task in EXACT for name in recipe.packs}
    packed, notes = _reduce(files, exact, most)
    if _mebibytes(packed) > most:
        names = ", ".join(own)
        raise ArchiveTooLarge(
            f"the smallest archive of {names} has {_mebibytes(packed):.1f} MiB, more than {most:g}; raise --most"
        )
    for path, data in packed.items():
        target = out / _name(path, data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    yield from notes
    for name, files_of_one in own.items():
        size = _mebibytes({path: data for path, data in packed.items() if path in files_of_one})
        yield f"{name}: {size:.1f} MiB in {out}"


def _mebibytes(files: Files) -> float:
    return sum(map(len, files.values())) / 2**20


def _read(recipe: Recipe, packs: Packs, start: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield (path in the archive, bytes) of everything that training `recipe` reads."""
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
    """Yield the weights of the newest version, and a `run.json` that lists the previous runs."""
    from training.export.variables import read_variables

    versions = sorted((root / recipe.task / recipe.name).glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        return
    for part in recipe.parts:
        arrays: dict[str, Any] = {k: v.astype(np.float16) for k, v in read_variables(versions[-1], part).items()}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        yield f"{part}.npz", file.getvalue()
    yield RUN, json.dumps({PREVIOUS_RUNS: previous_runs(versions[-1])}).encode()


def _reduce(files: Files, exact: set[str], most: float) -> tuple[Files, list[str]]:
    """Return `files` reduced no more than brings them to `most` MiB, or as far as allowed, and lines about it.

    The packs in `exact` keep their pixels.
    """
    photographs = {
        path: data
        for path, data in files.items()
        if PurePosixPath(path).suffix.lower() in LOSSY and PurePosixPath(path).parts[0] not in exact
    }
    packed, notes = dict(files), []
    for quality in QUALITIES if photographs else ():
        if _mebibytes(packed) <= most:
            break
        smaller = _encode_webp(photographs, quality)
        packed = {**files, **smaller}
        size = _mebibytes({path: files[path] for path in smaller})
        names = ", ".join(dict.fromkeys(PurePosixPath(path).parts[0] for path in smaller))
        became = f"{size:.1f} MiB became {_mebibytes(smaller):.1f}"
        notes = [f"{len(smaller)} photographs of {names} as WebP of quality {quality}: {became}"] if smaller else []
    left: dict[str, int] = defaultdict(int)
    for folder, run in _runs(packed):
        if _mebibytes(packed) <= most:
            break
        packed = {path: data for path, data in packed.items() if path not in run}
        left[folder] += len(run)
    return packed, notes + [f"{count} pictures of {folder} are left out" for folder, count in left.items()]


def _encode_webp(photographs: Files, quality: int) -> dict[str, bytes]:
    """Return the files that WebP of `quality` makes smaller, encoded."""

    def webp(data: bytes) -> bytes:
        file = io.BytesIO()
        Image.fromarray(read_rgb(io.BytesIO(data))).save(file, "webp", quality=quality)
        return file.getvalue()

    with ThreadPoolExecutor(4) as pool:
        found = zip(photographs.items(), pool.map(webp, photographs.values()), strict=True)
        return {path: smaller for (path, data), smaller in found if len(smaller) < WEBP_GAIN * len(data)}


def _runs(files: Files) -> Iterator[tuple[str, set[str]]]:
    """Yield (folder, paths) of pictures that may be left out, the most bytes first.

    They are taken from folders `train` without labels in runs that begin with a held-out picture, so that what is held
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
    """Return the path of a file in the archive: the same, but for files that became WebP."""
    at = PurePosixPath(path)
    return at.with_suffix(".webp") if at.suffix.lower() in LOSSY and data[8:12] == b"WEBP" else at
