"""What is on the shelf, what of it may be served, and what is in memory. Knows no TensorFlow, only a Loader."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import structlog

from app.engine.protocol import Arrays
from app.errors import ModelUnavailable, UnknownModel, nearest
from models import manifest as contract
from models import store
from models.manifest import Manifest, ManifestError
from models.store import ShelfError

log = structlog.get_logger(__name__)


class Model(Protocol):
    """A model in memory, called by one thread at a time."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Return the outputs of a batch by name; raises Overloaded or ModelUnavailable."""


class Loader(Protocol):
    """What brings models into memory: `runtime.Runtime`."""

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the model's graph, without loading it."""

    def load(self, folder: Path, manifest: Manifest) -> Model:
        """Return the model in memory; raises ModelUnavailable."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version on the shelf. `manifest` is None where it cannot be read; `reason` says why it is unavailable."""

    id: str
    folder: Path
    manifest: Manifest | None
    state: Literal["unloaded", "loaded", "unavailable"]
    reason: str = ""


class _Slot:
    """An entry that changes: guarded by its own lock, so that a load holds up only those who want that model."""

    def __init__(self, place: tuple[str, str, int], folder: Path, manifest: Manifest | None, reason: str) -> None:
        self.task, self.name, self.version = place
        self.folder = folder
        self.manifest = manifest
        self.reason = reason
        self.model: Model | None = None
        self.lock = threading.Lock()

    @property
    def id(self) -> str:
        return f"{self.task}/{self.name}@{self.version}"

    def unavailable(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"The model {self.id} is on the shelf but cannot be served. Ask for another one.",
            field="model",
            value=self.id,
        )


class Registry:
    """The models of `folders` (shelves; where two hold the same version, the first counts). Safe from any thread.

    When the registry is made or scanned again, every file's digest is compared and every graph checked. What breaks
    its contract is logged and remembered as unavailable; the rest is served.
    """

    def __init__(self, folders: Sequence[Path], loader: Loader) -> None:
        self._folders = tuple(folders)
        self._loader = loader
        self._slots: dict[str, _Slot] = {}
        self.scan()

    def scan(self) -> None:
        """Read the shelves anew. A model whose manifest did not change stays in memory."""
        slots: dict[str, _Slot] = {}
        for folder in store.folders(self._folders):
            slot = self._read(folder)
            known = self._slots.get(slot.id)
            if slot.id in slots:
                log.warning("model shadowed", model=slot.id, folder=str(folder), by=str(slots[slot.id].folder))
            elif known and known.model and known.folder == folder and known.manifest == slot.manifest:
                slots[slot.id] = known
            else:
                slots[slot.id] = slot
        self._slots = slots  # swapped whole: who looks meanwhile sees the old shelf or the new one
        log.info("shelf read", models=len(slots), refused=sum(bool(slot.reason) for slot in slots.values()))
        for task in self._tasks():
            names = self._default_names(task)
            if len(names) > 1:
                log.warning("several default models", task=task, names=names, chosen=names[0])
            try:
                self.find(task)
            except (UnknownModel, ModelUnavailable) as error:
                log.warning("task without default model", task=task, reason=error.detail)

    def entries(self) -> list[Entry]:
        """Return what is on the shelf, by task, name and version."""
        ordered = sorted(self._slots.values(), key=lambda slot: (slot.task, slot.name, slot.version))
        return [_entry(slot) for slot in ordered]

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of `name` or `name@version`, the latest version by default, or of the task's default.

        Raises UnknownModel, which names the nearest, or ModelUnavailable.
        """
        slot = self._default(task) if name is None else self._named(task, name)
        if slot.reason or slot.manifest is None:
            raise slot.unavailable()
        return slot.manifest

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""
        found = []
        for task in self._tasks():
            with suppress(UnknownModel, ModelUnavailable):
                found.append(self.find(task))
        return found

    def loaded(self, model: str) -> Model | None:
        """Return the model of this id if it is in memory."""
        slot = self._slots.get(model)
        return slot.model if slot else None

    def load(self, model: str) -> Model:
        """Return the model of this id, loading it at the first call (seconds; those who come meanwhile wait).

        Raises UnknownModel or ModelUnavailable; a model that failed to load once is not tried again.
        """
        slot = self._slots.get(model)
        if slot is None:
            raise UnknownModel(f"There is no model {model!r}.", field="model", value=model)
        with slot.lock:
            if slot.model is None:
                if slot.reason or slot.manifest is None:
                    raise slot.unavailable()
                try:
                    slot.model = self._loader.load(slot.folder, slot.manifest)
                except ModelUnavailable as error:
                    slot.reason = error.detail
                    log.error("model unavailable", model=slot.id, reason=slot.reason)
                    raise slot.unavailable() from None
                log.info("model loaded", model=slot.id)
            return slot.model

    def _default(self, task: str) -> _Slot:
        names = self._default_names(task)
        if not names:
            raise UnknownModel(f"There is no default model for {task}.{self._choice(task)}", field="model")
        return max((slot for slot in self._of(task) if slot.name == names[0]), key=lambda slot: slot.version)

    def _default_names(self, task: str) -> list[str]:
        # A name stays the default when a newer version of it comes without the mark.
        marked = [slot.name for slot in self._of(task) if slot.manifest and store.is_default(slot.manifest)]
        return list(dict.fromkeys(marked))

    def _named(self, task: str, wanted: str) -> _Slot:
        name, _, version = wanted.partition("@")
        versions = {slot.version: slot for slot in self._of(task) if slot.name == name}
        if not versions:
            hint = nearest(name, {slot.name for slot in self._of(task)})
            text = f"There is no model {wanted!r} for {task}.{hint}{self._choice(task)}"
            raise UnknownModel(text, field="model", value=wanted)
        if not version and "@" not in wanted:
            return versions[max(versions)]
        if not (version.isascii() and version.isdecimal()) or len(version) > 9 or int(version) not in versions:
            there = ", ".join(str(number) for number in sorted(versions))
            text = f"There is no version {version!r} of {task}/{name}. Versions: {there}."
            raise UnknownModel(text, field="model", value=wanted)
        return versions[int(version)]

    def _read(self, folder: Path) -> _Slot:
        place = folder.parts[-3], folder.parts[-2], int(folder.parts[-1])
        manifest = None
        try:
            manifest = store.open_model(folder)
            problems = self._loader.problems(folder, manifest)
        except (ManifestError, ShelfError) as error:
            problems = error.problems
        if problems:
            log.error("model refused", model="{}/{}@{}".format(*place), folder=str(folder), problems=problems)
        return _Slot(place, folder, manifest or _readable(folder), "; ".join(problems))

    def _tasks(self) -> list[str]:
        return sorted({slot.task for slot in self._slots.values()})

    def _of(self, task: str) -> list[_Slot]:
        return [slot for slot in self._slots.values() if slot.task == task]

    def _choice(self, task: str) -> str:
        names = sorted({slot.name for slot in self._of(task)})
        return f" Models: {', '.join(names)}." if names else ""


def _readable(folder: Path) -> Manifest | None:
    try:
        return contract.read(folder)
    except ManifestError:
        return None


def _entry(slot: _Slot) -> Entry:
    if slot.reason:
        return Entry(slot.id, slot.folder, slot.manifest, "unavailable", slot.reason)
    return Entry(slot.id, slot.folder, slot.manifest, "loaded" if slot.model else "unloaded")
