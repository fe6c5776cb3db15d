"""The model repository: folders `<root>/<task>/<name>/<version>/`, one model each, TensorFlow Serving's layout.

A model that was published is never changed, but for the mark that makes it its task's default: a better one gets
the next version. Names that begin with a dot are no models (a publication under way).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from models import manifest as contract
from models.manifest import MANIFEST_NAME, Manifest, ManifestError

Fingerprint = tuple[tuple[str, int, int], ...]


class RepositoryError(ValueError):
    """A folder that is not what its manifest says. `problems` lists every difference, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(folder: Path) -> dict[str, str]:
    """Return {path below `folder`: SHA-256} of every file there but the manifest, in order of path."""
    return {path: digest(folder / path) for path in _paths(folder) if path != MANIFEST_NAME}


def fingerprint(folder: Path) -> Fingerprint:
    """Return what tells, without reading a file, whether one of them changed: path, size and time of each."""
    found = []
    with suppress(FileNotFoundError):  # it is being removed while we look
        for path in _paths(folder):
            status = (folder / path).lstat()
            found.append((path, status.st_size, status.st_mtime_ns))
    return tuple(found)


def folders(roots: Iterable[Path], unreadable: Callable[[Path, OSError], None] | None = None) -> Iterator[Path]:
    """Yield the folder of each model in the repositories at `roots`, one after the other, by task, name and version.

    A missing root is an empty one. A folder that cannot be read (`lost+found`, say) is passed to `unreadable` and
    skipped.
    """

    def below(folder: Path) -> list[Path]:
        try:
            return _below(folder)
        except OSError as error:
            if unreadable:
                unreadable(folder, error)
            return []

    for root in roots:
        for task in below(root):
            for name in below(task):
                versions = [folder for folder in below(name) if folder.name.isdecimal()]
                yield from sorted(versions, key=lambda folder: int(folder.name))


def open_model(folder: Path) -> Manifest:
    """Return the manifest of `folder` after every file's digest was compared.

    Raises ManifestError for the manifest itself; RepositoryError for a file that is missing, differs or is not listed,
    a link, or a folder whose place is not what the manifest says; OSError for what passes.
    """
    manifest = contract.read(folder)
    problems = []
    place = "/".join(folder.parts[-3:])
    if place != f"{manifest.task}/{manifest.name}/{manifest.version}":
        problems.append(f"the folder is {place}, but the manifest says {manifest.id}")
    present = set(_paths(folder)) - {MANIFEST_NAME}
    problems += [f"{path} is not listed in the manifest" for path in sorted(present - manifest.files.keys())]
    for path, expected in sorted(manifest.files.items()):
        if path not in present:
            problems.append(f"{path} is missing")
        elif (folder / path).is_symlink():
            problems.append(f"{path} is a symbolic link")
        else:
            problems += _difference(folder / path, path, expected)
    if problems:
        raise RepositoryError(problems)
    return manifest


def next_version(task: str, name: str, root: Path) -> int:
    """Return the version that the next model of this name gets: 1 in an empty repository."""
    return max((int(folder.name) for folder in _versions(root / task / name)), default=0) + 1


def publish(manifest: Manifest, source: Path, root: Path, *, default: bool | None = None) -> Path:
    """Copy the model in `source` to its place in the repository at `root` and return that folder.

    `files` of the manifest is filled in from what is copied. With `default` the model becomes its task's default
    instead of the present one of this repository; None leaves what the manifest says, and a version of a default is
    one, too. Readers see the whole model or none: it is written to a temporary folder, manifest last, and renamed.
    Raises RepositoryError if that version exists.
    """
    parent = root / manifest.task / manifest.name
    place = parent / str(manifest.version)
    if place.exists():
        raise RepositoryError([f"{manifest.id} already exists; use version {_next(manifest, root)}"])
    if default is None and any(is_default(contract.read(folder)) for folder in _versions(parent)):
        default = True
    if default is not None:
        manifest = _mark_default(manifest, default)
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".publishing-", dir=parent))
    try:
        ignore = shutil.ignore_patterns(MANIFEST_NAME)
        shutil.copytree(source, temporary, ignore=ignore, dirs_exist_ok=True)
        temporary.chmod(0o755)
        contract.write(manifest.model_copy(update={"files": files(temporary)}), temporary)
        os.rename(temporary, place)  # noqa: PTH104 - the rename that fails where a full folder stands
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if place.exists():
            raise RepositoryError([f"{manifest.id} was published by another process in the meantime"]) from error
        raise
    if default:
        _unmark_others(manifest, root)
    return place


def is_default(manifest: Manifest) -> bool:
    """Return whether the model is marked as its task's default."""
    return manifest.defaults.get("default") is True


def _difference(file: Path, path: str, expected: str) -> list[str]:
    try:
        return [] if digest(file) == expected else [f"{path} has another SHA-256 than the manifest says"]
    except OSError as error:
        if contract.is_transient(error):
            raise
        return [f"{path} cannot be read: {error.strerror}"]


def _next(manifest: Manifest, root: Path) -> int:
    return next_version(manifest.task, manifest.name, root)


def _mark_default(manifest: Manifest, default: bool) -> Manifest:
    rest = {key: value for key, value in manifest.defaults.items() if key != "default"}
    return manifest.model_copy(update={"defaults": {**rest, "default": True} if default else rest})


def _unmark_others(chosen: Manifest, root: Path) -> None:
    for folder in folders([root]):
        if folder.parts[-3] != chosen.task or folder.parts[-2] == chosen.name:
            continue
        try:
            other = contract.read(folder)
        except ManifestError:  # it has no mark that anybody could read
            continue
        if is_default(other):
            with tempfile.TemporaryDirectory(prefix=".publishing-", dir=folder.parent) as scratch:
                contract.write(_mark_default(other, False), Path(scratch))
                (Path(scratch) / MANIFEST_NAME).replace(folder / MANIFEST_NAME)


def _versions(folder: Path) -> list[Path]:
    return [version for version in _below(folder) if version.name.isdecimal()]


def _below(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return []


def _paths(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in paths)
