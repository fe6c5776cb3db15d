"""Which version a model's name means, and which model is a task's default. Pure: reads no file and loads nothing.

A newer version is served under the model's name once it has been loaded and run (`ready`). Until then, and if that
fails, the older version stays in service. The same holds for another default.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.engine.loader import Model
from app.errors import ModelUnavailable, UnknownModel, nearest
from models import repository
from models.manifest import Manifest
from models.repository import Fingerprint


@dataclass(slots=True, eq=False)
class ModelVersion:
    """One version of a model: its files, whether it may be served, and where it is in memory.

    `fingerprint` is that of the files that were read, `rejected_fingerprint` that of files which were changed while the
    version was in use and are ignored. `reason` says why the version cannot be served. `ready` is set once it was
    loaded and run, `removed` when its folder is gone.

    `loaded` has the models in memory by device, of `memory_bytes` each. `leases` counts who uses them, `last_used` is
    when the last lease ended; `pinned` versions are unloaded last. `load_lock` is held during a load, so that a load
    delays only those who want the same model.
    """

    task: str
    name: str
    version: int
    folder: Path
    fingerprint: Fingerprint
    manifest: Manifest | None
    reason: str
    rejected_fingerprint: Fingerprint = ()
    ready: bool = False
    removed: bool = False
    pinned: bool = False
    loaded: dict[str, Model] = field(default_factory=dict)
    memory_bytes: int = 0
    leases: int = 0
    last_used: float = 0.0
    load_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> str:
        return f"{self.task}/{self.name}@{self.version}"

    @property
    def in_use(self) -> bool:
        return bool(self.loaded or self.leases)

    @property
    def usable(self) -> bool:
        return not self.reason and self.manifest is not None

    @property
    def marked_default(self) -> bool:
        return self.manifest is not None and repository.is_default(self.manifest)

    def unavailable(self) -> ModelUnavailable:
        """Return the error for a request that names this version while it cannot be served."""
        return ModelUnavailable(
            f"The model {self.id} failed to load and is not served. Use another model.", field="model", value=self.id
        )


@dataclass(frozen=True, slots=True)
class RepositorySnapshot:
    """The versions by id, the version that each (task, name) means, and the name of each task's default model.

    `chosen` has the names of models, by task, that are defaults wherever they exist, whatever the marks say.
    """

    versions: Mapping[str, ModelVersion] = field(default_factory=dict)
    latest: Mapping[tuple[str, str], ModelVersion] = field(default_factory=dict)
    default: Mapping[str, str] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)

    def versions_of(self, task: str) -> list[ModelVersion]:
        """Return all versions of a task's models."""
        return [version for version in self.versions.values() if version.task == task]

    def tasks(self) -> list[str]:
        """Return the tasks that have models, in alphabetical order."""
        return sorted({version.task for version in self.versions.values()})

    def find_marked_defaults(self, task: str) -> list[str]:
        """Return the names of a task that are marked as its default: a newer version need not bear the mark."""
        return list(dict.fromkeys(version.name for version in self.versions_of(task) if version.marked_default))

    def _find_wanted(self, task: str) -> str:
        """Return the name of the model that is to be the default of `task`, or an empty string."""
        name = self.chosen.get(task, "")
        if any(version.name == name for version in self.versions_of(task)):
            return name
        return next(iter(self.find_marked_defaults(task)), "")

    def updated(self, versions: Mapping[str, ModelVersion]) -> RepositorySnapshot:
        """Return the snapshot of `versions`. A version or default stays in service until its successor is ready, or
        until it cannot be served itself."""
        by_name: dict[tuple[str, str], list[ModelVersion]] = {}
        for version in versions.values():
            by_name.setdefault((version.task, version.name), []).append(version)
        latest = {key: _latest(group, self.latest.get(key)) for key, group in by_name.items()}
        snapshot = RepositorySnapshot(versions, latest, chosen=self.chosen)
        default = {task: self._next_default(snapshot, task) for task in snapshot.tasks()}
        return replace(snapshot, default={task: name for task, name in default.items() if name})

    def _next_default(self, snapshot: RepositorySnapshot, task: str) -> str:
        wanted, current = snapshot._find_wanted(task), self.default.get(task, "")
        serving, successor = snapshot.latest.get((task, current)), snapshot.latest.get((task, wanted))
        if serving is None or (successor and not serving.usable):
            return wanted
        return wanted if successor and successor.ready and successor.usable else current

    def pending_promotions(self) -> list[ModelVersion]:
        """Return the versions that replace one in service as soon as they are ready: newer versions, other defaults."""
        newest = [max(self._usable(key), default=None, key=_number) for key in self.latest]
        found = [one for one in newest if one and one.version > self.latest[one.task, one.name].version]
        for task, current in self.default.items():
            wanted = self._find_wanted(task) or current
            if wanted != current:
                found.append(self.latest[task, wanted])
        return [version for version in dict.fromkeys(found) if version.usable and not version.ready]

    def find(self, task: str, name: str | None = None) -> ModelVersion:
        """Return the version that `name` or `name@version` means, or the task's default for None.

        Raises UnknownModel, which names the nearest."""
        return self._find_default(task) if name is None else self._find_named(task, name)

    def _usable(self, key: tuple[str, str]) -> list[ModelVersion]:
        return [version for version in self.versions.values() if (version.task, version.name) == key and version.usable]

    def _find_default(self, task: str) -> ModelVersion:
        if task not in self.default:
            raise UnknownModel(f"There is no default model for {task}.{self._list_names(task)}", field="model")
        return self.latest[task, self.default[task]]

    def _find_named(self, task: str, wanted: str) -> ModelVersion:
        name, _, number = wanted.partition("@")
        versions = {version.version: version for version in self.versions_of(task) if version.name == name}
        if not versions:
            hint = nearest(name, {version.name for version in self.versions_of(task)})
            text = f"There is no model {wanted!r} for {task}.{hint}{self._list_names(task)}"
            raise UnknownModel(text, field="model", value=wanted)
        if not number and "@" not in wanted:
            return self.latest[task, name]
        if not (number.isascii() and number.isdecimal()) or len(number) > 9 or int(number) not in versions:
            existing = ", ".join(map(str, sorted(versions)))
            text = f"There is no version {number!r} of {task}/{name}. Versions: {existing}."
            raise UnknownModel(text, field="model", value=wanted)
        return versions[int(number)]

    def _list_names(self, task: str) -> str:
        names = sorted({version.name for version in self.versions_of(task)})
        return f" Models: {', '.join(names)}." if names else ""


def _latest(versions: Iterable[ModelVersion], serving: ModelVersion | None) -> ModelVersion:
    """Return the version that a name means: the newest that is ready or in service; where there is none, the newest
    usable one; where there is none of these either, the newest."""
    usable = [version for version in versions if version.usable]
    ready = [version for version in usable if version.ready or (serving and version.version == serving.version)]
    return max(ready or usable or versions, key=_number)


def _number(version: ModelVersion) -> int:
    return version.version
