"""Reads the folders of the model repository: finds what is new, checks it, and ignores what is still being written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.engine.loader import Loader
from app.engine.versions import ModelVersion
from models import manifest as contract
from models import repository
from models.manifest import Manifest, ManifestError, is_transient
from models.repository import Fingerprint, RepositoryError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Scan:
    """The versions found, by id, and the tasks that have folders which are still being written."""

    versions: dict[str, ModelVersion]
    unstable_tasks: set[str]


class RepositoryScanner:
    """Scans `folders` for models. Where two folders hold the same version, the first counts.

    When a model's folder is read, every file's digest is compared and its graph is checked. What breaks the contract is
    logged, and unavailable until its files change. Call it from one thread at a time.
    """

    def __init__(self, folders: Sequence[Path], loader: Loader) -> None:
        self._folders = tuple(folders)
        self._loader = loader
        self._unstable_dirs: dict[Path, Fingerprint] = {}  # those that had changed at the last scan
        self._shadowed: set[Path] = set()
        self._unreadable: set[Path] = set()

    def scan(
        self,
        current: Mapping[str, ModelVersion],
        retired: Mapping[str, ModelVersion] | None = None,
        *,
        wait_until_stable: bool = True,
    ) -> Scan:
        """Return what the folders hold now. An unchanged folder keeps its version of `current` or `retired` and costs a
        listing.

        With `wait_until_stable` a changed folder is read at the second scan that finds it the same, so that no
        half-copied model is read. Raises OSError where a folder with current models cannot be listed.
        """
        versions: dict[str, ModelVersion] = {}
        unstable_dirs: dict[Path, Fingerprint] = {}

        def skip(folder: Path, error: OSError) -> None:
            if any(version.folder.is_relative_to(folder) for version in current.values()):
                raise error
            self._log_unreadable(folder, error)

        for folder in repository.folders(self._folders, skip):
            model = _model_id(folder)
            if model in versions:
                self._log_shadowed(folder, versions[model].folder)
                continue
            fingerprint = repository.fingerprint(folder)
            known = current.get(model) or (retired or {}).get(model)
            if known and _is_unchanged(known, folder, fingerprint):
                versions[model] = known
            elif wait_until_stable and self._unstable_dirs.get(folder) != fingerprint:
                unstable_dirs[folder] = fingerprint
                versions |= {model: known} if known else {}
            else:
                versions[model] = self._read(folder, fingerprint, known)
        self._unstable_dirs = unstable_dirs
        return Scan(versions, {folder.parts[-3] for folder in unstable_dirs})

    def _read(self, folder: Path, fingerprint: Fingerprint, known: ModelVersion | None) -> ModelVersion:
        """Return the version in a folder whose files are not those of `known`. A version in use is not replaced."""
        task, name, number = folder.parts[-3:]
        manifest, problems = None, []
        try:
            manifest = repository.open_model(folder)
            problems = self._loader.problems(folder, manifest)
        except (ManifestError, RepositoryError) as error:
            problems = error.problems
        except OSError as error:
            problems = [f"it cannot be read: {error.strerror}"]
            fingerprint = () if is_transient(error) else fingerprint  # so that it is read again
        if known and known.in_use:
            if manifest and known.manifest and is_same_model(manifest, known.manifest) and not problems:
                known.folder, known.fingerprint, known.manifest = folder, fingerprint, manifest
            else:
                known.rejected_fingerprint = fingerprint
                log.error("model files changed, the loaded model stays in use", model=known.id, folder=str(folder))
            return known
        if problems:
            log.error("model refused", model=_model_id(folder), folder=str(folder), problems=problems)
        manifest = manifest or _read_manifest(folder)
        pinned = bool(known and known.pinned)
        return ModelVersion(task, name, int(number), folder, fingerprint, manifest, "; ".join(problems), pinned=pinned)

    def _log_shadowed(self, folder: Path, used: Path) -> None:
        if folder not in self._shadowed:
            self._shadowed.add(folder)
            log.warning("duplicate model ignored", model=_model_id(folder), folder=str(folder), used=str(used))

    def _log_unreadable(self, folder: Path, error: OSError) -> None:
        if folder not in self._unreadable:
            self._unreadable.add(folder)
            log.warning("folder not readable", folder=str(folder), reason=error.strerror)


def is_same_model(one: Manifest, other: Manifest) -> bool:
    """Return whether two manifests differ in nothing but the mark of a default."""
    return one.model_copy(update={"defaults": {}}) == other.model_copy(update={"defaults": {}})


def _model_id(folder: Path) -> str:
    """Return the id of the model that belongs in this folder."""
    task, name, version = folder.parts[-3:]
    return f"{task}/{name}@{int(version)}"


def _is_unchanged(version: ModelVersion, folder: Path, fingerprint: Fingerprint) -> bool:
    rejected_before = version.in_use and version.rejected_fingerprint == fingerprint
    return version.folder == folder and (version.fingerprint == fingerprint or rejected_before)


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        return contract.read(folder)
    except (ManifestError, OSError):
        return None
