"""What is on the shelf, what of it may be served, what a name means now, and what is in memory.

Knows no TensorFlow, only a Loader. A look at the shelf makes a new `_Shelf` of the old one, which is swapped in whole:
who asks meanwhile sees the old shelf or the new one. A newer version becomes the one that a name means once it has been
loaded and run (`prove`); until then, and if that fails, the older one goes on serving.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from app.engine.protocol import Arrays, ModelStatus
from app.errors import ModelUnavailable, Overloaded, UnknownModel, nearest
from models import manifest as contract
from models import repository
from models.manifest import Manifest, ManifestError, is_transient
from models.repository import Fingerprint, RepositoryError

log = structlog.get_logger(__name__)

UNLOAD_GRACE_S = 60.0
"""Seconds for which a model that left the shelf stays in memory after its last use: a request asks for it again and
again, with other work between."""


class Model(Protocol):
    """A model in memory, called by several threads at once where a device has lanes."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch by name; raises Overloaded or ModelUnavailable."""


class Loader(Protocol):
    """What brings models into memory: `runtime.Runtime`."""

    @property
    def devices(self) -> Sequence[str]:
        """What models can be loaded on, the usual one first; never empty."""

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the model's graph, without loading it."""

    def size(self, folder: Path) -> int:
        """Return about how many bytes of memory the model takes once it is loaded."""

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
        """Return the model in memory; raises ModelUnavailable, or Overloaded where there is too little of it now."""

    def unload(self, model: Any) -> None:
        """Give the memory of a model back that `load` returned; it is not called again."""


@dataclass(slots=True, eq=False)
class ModelVersion:
    """A version that changes: `lock` guards its loads, so that one holds up only those who want that model.

    `stamp` is of the files as they were read; `refused` is of files that were changed while the version was in memory.
    `proven` is what was loaded and works, `gone` what is on no shelf any more. `models` are those in memory, by device,
    of `bytes` each; `holds` counts who needs them, `used` is when last, `kept` ones go last.
    """

    task: str
    name: str
    version: int
    folder: Path
    fingerprint: Fingerprint
    manifest: Manifest | None
    reason: str
    refused: Fingerprint = ()
    proven: bool = False
    gone: bool = False
    kept: bool = False
    models: dict[str, Model] = field(default_factory=dict)
    bytes: int = 0
    holds: int = 0
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def id(self) -> str:
        return f"{self.task}/{self.name}@{self.version}"

    @property
    def needed(self) -> bool:
        return bool(self.models or self.holds)

    @property
    def usable(self) -> bool:
        return not self.reason and self.manifest is not None

    @property
    def default(self) -> bool:
        return self.manifest is not None and repository.is_default(self.manifest)

    def unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"The model {self.id} is on the shelf but cannot be served. Ask for another one.",
            field="model",
            value=self.id,
        )


@dataclass(frozen=True, slots=True)
class RepositorySnapshot:
    """What is on the shelf by id, the version that each (task, name) means, and each task's default name."""

    slots: Mapping[str, ModelVersion] = field(default_factory=dict)
    latest: Mapping[tuple[str, str], ModelVersion] = field(default_factory=dict)
    default: Mapping[str, str] = field(default_factory=dict)

    def of(self, task: str) -> list[ModelVersion]:
        return [slot for slot in self.slots.values() if slot.task == task]

    def tasks(self) -> list[str]:
        return sorted({slot.task for slot in self.slots.values()})

    def marked(self, task: str) -> list[str]:
        """Return the names of a task that are marked as its default: a newer version need not bear the mark."""
        return list(dict.fromkeys(slot.name for slot in self.of(task) if slot.default))

    def followed_by(self, slots: Mapping[str, ModelVersion]) -> RepositorySnapshot:
        """Return the shelf that holds `slots` now. What cannot serve gives way, and so does what is proven to have a
        successor."""
        names: dict[tuple[str, str], list[ModelVersion]] = {}
        for slot in slots.values():
            names.setdefault((slot.task, slot.name), []).append(slot)
        latest = {key: _latest(versions, self.latest.get(key)) for key, versions in names.items()}
        snapshot = RepositorySnapshot(slots, latest)
        default = {task: self._default_of(snapshot, task) for task in snapshot.tasks()}
        return RepositorySnapshot(slots, latest, {task: name for task, name in default.items() if name})

    def _default_of(self, snapshot: RepositorySnapshot, task: str) -> str:
        wanted, present = next(iter(snapshot.marked(task)), ""), self.default.get(task, "")
        serving, follower = snapshot.latest.get((task, present)), snapshot.latest.get((task, wanted))
        if serving is None or (follower and not serving.usable):
            return wanted
        return wanted if follower and follower.proven and follower.usable else present

    def unproven(self) -> list[ModelVersion]:
        """Return what takes a place as soon as it is proven: a newer version, another default."""
        newest = [max(_usable(self.slots.values(), key), default=None, key=_version) for key in self.latest]
        found = [slot for slot in newest if slot and slot.version > self.latest[slot.task, slot.name].version]
        for task, present in self.default.items():
            wanted = next(iter(self.marked(task)), present)
            if wanted != present:
                found.append(self.latest[task, wanted])
        return [slot for slot in dict.fromkeys(found) if slot.usable and not slot.proven]


def _latest(versions: Iterable[ModelVersion], serving: ModelVersion | None) -> ModelVersion:
    """Return the version that a name means: the newest proven one, unless one that serves is newer; where none of
    these is, the newest that may be served, or the newest of all."""
    usable = [slot for slot in versions if slot.usable]
    proven = [slot for slot in usable if slot.proven or (serving and slot.version == serving.version)]
    return max(proven or usable or versions, key=_version)


def _usable(slots: Iterable[ModelVersion], key: tuple[str, str]) -> list[ModelVersion]:
    return [slot for slot in slots if (slot.task, slot.name) == key and slot.usable]


def _version(slot: ModelVersion) -> int:
    return slot.version


class Registry:
    """The models of `folders` (shelves; where two hold the same version, the first counts). Safe from any thread.

    When a folder is read, every file's digest is compared and its graph checked, and once more before it is loaded.
    What breaks its contract is logged and remembered as unavailable until its files change; the rest is served.

    Models in memory take at most about `budget` bytes on each device (0: any number): for a further one those that
    nobody needs are unloaded, the least recently used first. Where all are needed it is loaded all the same.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        loader: Loader,
        *,
        budget: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = tuple(folders)
        self._loader = loader
        self._budget = budget
        self._clock = clock
        self._shelf = RepositorySnapshot()
        self._retired: dict[str, ModelVersion] = {}  # off the shelf and still in memory
        self._unstable_dirs: dict[Path, Fingerprint] = {}  # what changed when it was looked at last
        self._shadowed: set[Path] = set()
        self._unreadable: set[Path] = set()
        self._loading_bytes: Counter[str] = Counter()  # bytes that are being loaded, by device
        self._lock = threading.Lock()  # guards the shelf, holds and what is in memory; held for moments
        self._looking = threading.Lock()
        new, _ = self._read(patient=False)
        log.info("shelf read", models=len(new), refused=sum(bool(slot.reason) for slot in new))
        self._tell_of_defaults()

    @property
    def devices(self) -> Sequence[str]:
        """What models are loaded on, the usual one first."""
        return self._loader.devices

    # --- the shelf ---

    def poll(self) -> None:
        """Read what changed on the shelves before the last look and not since, so that nothing is read half-copied.

        An unchanged folder costs a listing. What left the shelf is unloaded when it was not used for a while.
        """
        with self._looking:
            new, left = self._read(patient=True)
        for slot in left:
            log.info("model left the shelf", model=slot.id)
        for slot in new:
            log.info("model on the shelf", model=slot.id, usable=slot.usable)
        if new or left:
            self._tell_of_defaults()
        self._forget()
        for device in self.devices:
            self._make_room(0, device)

    def pending_promotions(self) -> list[Manifest]:
        """Return what takes the place of a version or a default that serves, once it is proven."""
        return [slot.manifest for slot in self._shelf.unproven() if slot.manifest]

    def mark_ready(self, model: str) -> None:
        """Say that this model was loaded and works: it may take the place of an older one."""
        with self._lock:
            self._slot(model).proven = True
            self._settle(self._shelf.slots)

    def mark_unavailable(self, model: str, reason: str) -> None:
        """Say that this model does not work: it is unavailable until its files change."""
        log.error("model unavailable", model=model, reason=reason)
        with self._lock:
            slot = self._slot(model)
            slot.reason = reason
            self._settle(self._shelf.slots)
            idle = {} if slot.holds else slot.models.copy()
            for device in idle:
                del slot.models[device]
        for device, there in idle.items():
            self._unload(slot, device, there)

    def pin(self, model: str) -> None:
        """Let this model, and a version that takes its place, be unloaded last."""
        self._slot(model).kept = True

    def statuses(self) -> list[ModelStatus]:
        """Return what is on the shelf, by task, name and version."""
        snapshot = self._shelf
        ordered = sorted(snapshot.slots.values(), key=lambda slot: (slot.task, slot.name, slot.version))
        return [_entry(slot, latest=snapshot.latest[slot.task, slot.name] is slot) for slot in ordered]

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of `name` or `name@version`, or of the task's default.

        A name means its newest version, once that is proven where an older one serves. Raises UnknownModel, which
        names the nearest, or ModelUnavailable.
        """
        snapshot = self._shelf
        slot = _default(snapshot, task) if name is None else _named(snapshot, task, name)
        if slot.reason or slot.manifest is None:
            raise slot.unavailable()
        return slot.manifest

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""
        found = []
        for task in self._shelf.tasks():
            with suppress(UnknownModel, ModelUnavailable):
                found.append(self.find(task))
        return found

    def _read(self, *, patient: bool) -> tuple[list[ModelVersion], list[ModelVersion]]:
        """Swap in the shelf as it is now; when `patient`, without what is still being written.

        Returns what is new on it, and what left it."""
        known = dict(self._shelf.slots)
        slots: dict[str, ModelVersion] = {}
        unstable_dirs: dict[Path, Fingerprint] = {}
        for folder in repository.folders(self._folders, self._tell_of_unreadable):
            place = _place(folder)
            if place in slots:
                self._tell_of_shadow(folder, slots[place].folder)
                continue
            fingerprint = repository.fingerprint(folder)
            old = known.get(place) or self._retired.get(place)
            waits = patient and self._unstable_dirs.get(folder) != fingerprint
            if old and _unchanged(old, folder, fingerprint):
                slots[place] = old
            elif waits:
                unstable_dirs[folder] = fingerprint
                slots |= {place: old} if old else {}
            else:
                slots[place] = self._read_folder(folder, fingerprint, old)
        self._unstable_dirs = unstable_dirs
        left = self._swap(known, slots, {folder.parts[-3] for folder in unstable_dirs})
        return [slot for place, slot in slots.items() if known.get(place) is not slot], left

    def _read_folder(self, folder: Path, fingerprint: Fingerprint, old: ModelVersion | None) -> ModelVersion:
        """Return the slot of a folder whose files are not those of `old`; what is in memory stays as it is."""
        task, name, version = folder.parts[-3:]
        manifest, problems = None, []
        try:
            manifest = repository.open_model(folder)
            problems = self._loader.problems(folder, manifest)
        except (ManifestError, RepositoryError) as error:
            problems = error.problems
        except OSError as error:
            problems = [f"it cannot be read: {error.strerror}"]
            fingerprint = () if is_transient(error) else fingerprint  # what it has is to be read again
        if old and old.needed:
            if manifest and old.manifest and _same(manifest, old.manifest) and not problems:
                old.folder, old.fingerprint, old.manifest = folder, fingerprint, manifest
            else:
                old.refused = fingerprint
                log.error("model changed on the shelf, the one in memory goes on", model=old.id, folder=str(folder))
            return old
        if problems:
            log.error("model refused", model=_place(folder), folder=str(folder), problems=problems)
        manifest = manifest or _readable(folder)
        kept = bool(old and old.kept)
        return ModelVersion(task, name, int(version), folder, fingerprint, manifest, "; ".join(problems), kept=kept)

    def _swap(
        self, known: Mapping[str, ModelVersion], slots: dict[str, ModelVersion], unstable_dirs: set[str]
    ) -> list[ModelVersion]:
        """Make `slots` the shelf and return what left it. It stays while something of its task is about to take its
        place."""
        gone = {place: slot for place, slot in known.items() if place not in slots}
        with self._lock:
            unsettled = unstable_dirs | {s.task for s in self._shelf.followed_by({**gone, **slots}).unproven()}
            staying = {place: slot for place, slot in gone.items() if slot.needed and slot.task in unsettled}
            left = {place: slot for place, slot in gone.items() if place not in staying}
            self._retired = {place: slot for place, slot in self._retired.items() if place not in slots}
            self._retired |= {place: slot for place, slot in left.items() if slot.needed}
            for slot in (*gone.values(), *slots.values()):
                slot.gone = slot.id in gone
            self._settle({**staying, **slots})
        return list(left.values())

    def _settle(self, slots: Mapping[str, ModelVersion]) -> None:
        """Swap in the shelf that follows; with the lock held."""
        before, self._shelf = self._shelf, self._shelf.followed_by(slots)
        for key, slot in self._shelf.latest.items():
            old = before.latest.get(key)
            if old and old.version != slot.version:
                slot.kept, old.kept = slot.kept or old.kept, False
                log.info("model takes its place", model=slot.id, before=old.id)
        for task, name in self._shelf.default.items():
            if before.default.get(task, name) != name:
                log.info("default changes", task=task, name=name, before=before.default[task])

    def _tell_of_shadow(self, folder: Path, by: Path) -> None:
        if folder not in self._shadowed:
            self._shadowed.add(folder)
            log.warning("model shadowed", model=_place(folder), folder=str(folder), by=str(by))

    def _tell_of_unreadable(self, folder: Path, error: OSError) -> None:
        """Tell of a folder that is skipped. Raises `error` where it has models that are known: these stay."""
        if any(slot.folder.is_relative_to(folder) for slot in self._shelf.slots.values()):
            raise error
        if folder not in self._unreadable:
            self._unreadable.add(folder)
            log.warning("folder skipped", folder=str(folder), reason=error.strerror)

    def _tell_of_defaults(self) -> None:
        snapshot = self._shelf
        for task in snapshot.tasks():
            if len(snapshot.marked(task)) > 1:
                log.warning(
                    "several default models", task=task, names=snapshot.marked(task), chosen=snapshot.default[task]
                )
            try:
                self.find(task)
            except (UnknownModel, ModelUnavailable) as error:
                log.warning("task without default model", task=task, reason=error.detail)

    # --- memory ---

    def places(self, model: str) -> Sequence[str]:
        """Return the devices that the model of this id can run on: those that it is loaded on where it left the shelf,
        else all. Raises UnknownModel."""
        slot = self._slot(model)
        return list(slot.models) if slot.gone and slot.models else self.devices

    def loaded(self, model: str, device: str | None = None) -> Model | None:
        """Return the model of this id if it is in memory, on `device` or on any."""
        slot = self._shelf.slots.get(model) or self._retired.get(model)
        models = slot.models if slot else {}
        return models.get(device) if device else next(iter(models.values()), None)

    @contextmanager
    def lease(self, model: str) -> Iterator[None]:
        """Keep the model of this id in memory meanwhile, once it is there. Raises UnknownModel."""
        with self._lock:
            slot = self._slot(model)
            slot.holds += 1
        try:
            yield
        finally:
            with self._lock:
                slot.holds -= 1
                slot.used = self._clock()

    def load(self, model: str, device: str | None = None) -> Model:
        """Return the model of this id on a device, loading it at the first call (seconds; who comes meanwhile waits).

        Hold it while it is used. Raises UnknownModel, ModelUnavailable, or Overloaded where the device has no memory
        for it now, or the machine cannot read it. A model that failed to load otherwise is not tried again until its
        files change.
        """
        slot = self._slot(model)
        device = device or self.devices[0]
        if (there := slot.models.get(device)) is not None:  # a load on another device holds nobody up
            return there
        with slot.lock:
            there = slot.models.get(device)
            return self._load(slot, device) if there is None else there

    def _load(self, slot: ModelVersion, device: str) -> Model:
        if slot.reason or slot.manifest is None:
            raise slot.unavailable()
        try:
            # Once more: since it was read its files may have been changed, or have begun to rot.
            if not _same(repository.open_model(slot.folder), slot.manifest):
                raise RepositoryError(["its manifest was changed"])
            slot.bytes = self._loader.size(slot.folder)
            with self._room(slot.bytes, device):
                loaded = self._loader.load(slot.folder, slot.manifest, device)
                with self._lock:
                    slot.models[device] = loaded
                    slot.used = self._clock()
        except (ModelUnavailable, ManifestError, RepositoryError, OSError) as error:
            if isinstance(error, OSError) and is_transient(error):
                log.warning("model cannot be read now", model=slot.id, reason=error.strerror)
                raise Overloaded(f"The model {slot.id} cannot be read now. Try again later.") from None
            self.mark_unavailable(slot.id, str(error))
            raise slot.unavailable() from None
        log.info("model loaded", model=slot.id, device=device, mebibytes=round(slot.bytes / 2**20, 1))
        return loaded

    @contextmanager
    def _room(self, wanted: int, device: str) -> Iterator[None]:
        """Count `wanted` bytes as taken meanwhile, for which what nobody needs was unloaded."""
        with self._lock:
            self._loading_bytes[device] += wanted
        try:
            self._make_room(wanted, device)
            yield
        finally:
            with self._lock:
                self._loading_bytes[device] -= wanted

    def _make_room(self, wanted: int, device: str) -> None:
        """Unload what nobody needs, the least recently used first, until the device's models are within the budget."""
        if not self._budget:
            return
        with self._lock:
            slots = (*self._shelf.slots.values(), *self._retired.values())
            there = [slot for slot in slots if device in slot.models]
            over = sum(slot.bytes for slot in there) + self._loading_bytes[device] - self._budget
            victims = []
            # What is gone from the shelf cannot be loaded again: it goes by `_forget`.
            for slot in sorted((s for s in there if not s.holds and not s.gone), key=lambda s: (s.kept, s.used)):
                if over > 0:
                    victims.append((slot, slot.models.pop(device)))
                    over -= slot.bytes
        for slot, model in victims:
            self._unload(slot, device, model)
        if wanted and over > 0:
            log.warning("models over their budget", device=device, mebibytes=round(over / 2**20, 1))

    def _forget(self) -> None:
        """Unload what left the shelf, once nobody needs it and nobody did for a while, and what was refused while it
        was needed: its files are not read again before it is out of memory."""
        with self._lock:
            idle = [s for s in self._retired.values() if not s.holds and self._clock() - s.used >= UNLOAD_GRACE_S]
            for slot in idle:
                del self._retired[slot.id]
            idle += [s for s in self._shelf.slots.values() if s.reason and not s.holds]
            there = [(slot, device, model) for slot in idle for device, model in slot.models.items()]
            for slot in idle:
                slot.models.clear()
        for slot, device, model in there:
            self._unload(slot, device, model)

    def _unload(self, slot: ModelVersion, device: str, model: Model) -> None:
        self._loader.unload(model)
        log.info("model unloaded", model=slot.id, device=device)

    def _slot(self, model: str) -> ModelVersion:
        slot = self._shelf.slots.get(model) or self._retired.get(model)
        if slot is None:
            raise UnknownModel(f"There is no model {model!r}.", field="model", value=model)
        return slot


def _place(folder: Path) -> str:
    """Return the id that a version's folder stands for."""
    task, name, version = folder.parts[-3:]
    return f"{task}/{name}@{int(version)}"


def _unchanged(slot: ModelVersion, folder: Path, fingerprint: Fingerprint) -> bool:
    return slot.folder == folder and (slot.fingerprint == fingerprint or (slot.needed and slot.refused == fingerprint))


def _same(one: Manifest, other: Manifest) -> bool:
    """Return whether two manifests differ in nothing but the mark of a default."""
    return one.model_copy(update={"defaults": {}}) == other.model_copy(update={"defaults": {}})


def _default(snapshot: RepositorySnapshot, task: str) -> ModelVersion:
    if task not in snapshot.default:
        raise UnknownModel(f"There is no default model for {task}.{_choice(snapshot, task)}", field="model")
    return snapshot.latest[task, snapshot.default[task]]


def _named(snapshot: RepositorySnapshot, task: str, wanted: str) -> ModelVersion:
    name, _, version = wanted.partition("@")
    versions = {slot.version: slot for slot in snapshot.of(task) if slot.name == name}
    if not versions:
        hint = nearest(name, {slot.name for slot in snapshot.of(task)})
        text = f"There is no model {wanted!r} for {task}.{hint}{_choice(snapshot, task)}"
        raise UnknownModel(text, field="model", value=wanted)
    if not version and "@" not in wanted:
        return snapshot.latest[task, name]
    if not (version.isascii() and version.isdecimal()) or len(version) > 9 or int(version) not in versions:
        there = ", ".join(str(number) for number in sorted(versions))
        text = f"There is no version {version!r} of {task}/{name}. Versions: {there}."
        raise UnknownModel(text, field="model", value=wanted)
    return versions[int(version)]


def _choice(snapshot: RepositorySnapshot, task: str) -> str:
    names = sorted({slot.name for slot in snapshot.of(task)})
    return f" Models: {', '.join(names)}." if names else ""


def _readable(folder: Path) -> Manifest | None:
    try:
        return contract.read(folder)
    except (ManifestError, OSError):
        return None


def _entry(slot: ModelVersion, *, latest: bool) -> ModelStatus:
    state: Literal["unloaded", "loaded", "unavailable"] = "loaded" if slot.models else "unloaded"
    return ModelStatus(
        slot.id, slot.folder, slot.manifest, "unavailable" if slot.reason else state, slot.reason, latest
    )
