"""The models that can be served: what the repository holds, which version a name means, and what is in memory.

A poll of the repository makes a new `RepositorySnapshot`, which replaces the old one as a whole: a request sees the old
one or the new one. Knows no TensorFlow, only a Loader.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import structlog

from app.engine.loader import Loader, Model
from app.engine.model_cache import ModelCache
from app.engine.protocol import ModelStatus
from app.engine.repository import RepositoryScanner, Scan
from app.engine.versions import ModelVersion, RepositorySnapshot
from app.errors import ModelUnavailable, Overloaded, UnknownModel
from models.manifest import Manifest, ManifestError, is_transient
from models.repository import RepositoryError

log = structlog.get_logger(__name__)


class Registry:
    """The models in `folders`, loaded by `loader` within a memory `budget` in bytes (0: any number). Safe from any
    thread. `defaults` are names of default models, by task, that count more than the marks in the repository.

    `RepositoryScanner` says how folders are read, `RepositorySnapshot` which version a name means, and `ModelCache`
    which models stay in memory.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        loader: Loader,
        *,
        budget: int = 0,
        defaults: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.RLock()  # guards the snapshot, leases and the models in memory; held for moments
        self._poll_lock = threading.Lock()
        self._scanner = RepositoryScanner(folders, loader)
        self._cache = ModelCache(loader, self._lock, budget=budget, clock=clock)
        self._snapshot = RepositorySnapshot(chosen=defaults or {})
        scan = self._scanner.scan({}, wait_until_stable=False)
        self._replace(scan)
        refused = sum(bool(version.reason) for version in scan.versions.values())
        log.info("model repository scanned", models=len(scan.versions), refused=refused)
        self._log_defaults()

    @property
    def devices(self) -> Sequence[str]:
        """What models are loaded on, the default first."""
        return self._cache.devices

    # --- what may be served ---

    def poll(self) -> None:
        """Read what changed in the repository before the last poll and not since, so that no half-copied model is read.

        An unchanged folder costs a listing. Removed models are unloaded when they were not used for UNLOAD_GRACE_S.
        """
        with self._poll_lock:
            before = self._snapshot.versions
            scan = self._scanner.scan(before, self._cache.retired)
            removed = self._replace(scan)
        added = [version for model, version in scan.versions.items() if before.get(model) is not version]
        for version in removed:
            log.info("model removed", model=version.id)
        for version in added:
            log.info("model added", model=version.id, usable=version.usable)
        if added or removed:
            self._log_defaults()
        self._cache.unload_expired()

    def pending_promotions(self) -> list[Manifest]:
        """Return what replaces a version or a default in service as soon as `mark_ready` is called for it."""
        return [version.manifest for version in self._snapshot.pending_promotions() if version.manifest]

    def mark_ready(self, model: str) -> None:
        """Say that this model was loaded and run: it may replace an older one."""
        with self._lock:
            self._get(model).ready = True
            self._update(self._snapshot.versions)

    def mark_unavailable(self, model: str, reason: str) -> None:
        """Say that this model does not work: it is unavailable until its files change."""
        log.error("model unavailable", model=model, reason=reason)
        with self._lock:
            version = self._get(model)
            version.reason = reason
            self._update(self._snapshot.versions)
        self._cache.unload_if_idle(version)

    def pin(self, model: str) -> None:
        """Let this model, and a version that replaces it, be unloaded last."""
        self._get(model).pinned = True

    def statuses(self) -> list[ModelStatus]:
        """Return all versions by task, name and version."""
        snapshot = self._snapshot
        ordered = sorted(snapshot.versions.values(), key=lambda one: (one.task, one.name, one.version))
        return [_status(one, latest=snapshot.latest[one.task, one.name] is one) for one in ordered]

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of `name` or `name@version`, or of the task's default.

        A name means its newest version, once that is ready where an older one is in service. Raises UnknownModel, which
        names the nearest, or ModelUnavailable.
        """
        version = self._snapshot.find(task, name)
        if version.reason or version.manifest is None:
            raise version.unavailable()
        return version.manifest

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""
        found = []
        for task in self._snapshot.tasks():
            with suppress(UnknownModel, ModelUnavailable):
                found.append(self.find(task))
        return found

    def _replace(self, scan: Scan) -> list[ModelVersion]:
        """Make a scan's versions the current ones and return those that were removed.

        A removed version that is in use stays current while its task has something pending that may replace it.
        """
        with self._lock:
            missing = {one.id: one for one in self._snapshot.versions.values() if one.id not in scan.versions}
            pending = self._snapshot.updated({**missing, **scan.versions}).pending_promotions()
            unsettled = scan.unstable_tasks | {version.task for version in pending}
            staying = {model: one for model, one in missing.items() if one.in_use and one.task in unsettled}
            removed = {model: one for model, one in missing.items() if model not in staying}
            self._cache.retire(removed, scan.versions)
            for version in (*missing.values(), *scan.versions.values()):
                version.removed = version.id in missing
            self._update({**staying, **scan.versions})
        return list(removed.values())

    def _update(self, versions: Mapping[str, ModelVersion]) -> None:
        """Replace the snapshot by that of `versions` and log what was promoted; with the lock held."""
        before, self._snapshot = self._snapshot, self._snapshot.updated(versions)
        for key, version in self._snapshot.latest.items():
            previous = before.latest.get(key)
            if previous and previous.version != version.version:
                version.pinned, previous.pinned = version.pinned or previous.pinned, False
                log.info("model promoted", model=version.id, previous=previous.id)
        for task, name in self._snapshot.default.items():
            if before.default.get(task, name) != name:
                log.info("default model changed", task=task, name=name, previous=before.default[task])

    def _log_defaults(self) -> None:
        snapshot = self._snapshot
        for task, name in snapshot.chosen.items():
            if (task, name) not in snapshot.latest:
                log.warning("no such default model", task=task, name=name)
        for task in snapshot.tasks():
            if task not in snapshot.chosen and len(names := snapshot.find_marked_defaults(task)) > 1:
                log.warning("several default models", task=task, names=names, chosen=snapshot.default[task])
            try:
                self.find(task)
            except (UnknownModel, ModelUnavailable) as error:
                log.warning("task without default model", task=task, reason=error.detail)

    # --- what is in memory ---

    def places(self, model: str) -> Sequence[str]:
        """Return the devices that the model of this id can run on: those that it is loaded on where its files were
        removed, else all. Raises UnknownModel."""
        version = self._get(model)
        return list(version.loaded) if version.removed and version.loaded else self.devices

    def find_loaded(self, model: str, device: str | None = None) -> Model | None:
        """Return the model of this id if it is in memory, on `device` or on any."""
        try:
            models = self._get(model).loaded
        except UnknownModel:
            return None
        return models.get(device) if device else next(iter(models.values()), None)

    @contextmanager
    def lease(self, model: str) -> Iterator[None]:
        """Keep the model of this id in memory meanwhile, once it is loaded. Raises UnknownModel."""
        with self._lock:
            version = self._get(model)
            self._cache.acquire(version)
        try:
            yield
        finally:
            self._cache.release(version)

    def load(self, model: str, device: str | None = None) -> Model:
        """Return the model of this id on a device, loading it at the first call (seconds; other callers wait for it).

        Lease it while it is used. Raises UnknownModel, ModelUnavailable, or Overloaded where the device has no memory
        for it now, or the machine cannot read it. A model that failed to load otherwise is not tried again until its
        files change.
        """
        version = self._get(model)
        device = device or self.devices[0]
        if (loaded := version.loaded.get(device)) is not None:  # without the lock: another device may be loading it
            return loaded
        with version.load_lock:
            loaded = version.loaded.get(device)
            return self._load(version, device) if loaded is None else loaded

    def _load(self, version: ModelVersion, device: str) -> Model:
        if version.reason or version.manifest is None:
            raise version.unavailable()
        try:
            return self._cache.load(version, version.manifest, device)
        except (ModelUnavailable, ManifestError, RepositoryError, OSError) as error:
            if isinstance(error, OSError) and is_transient(error):
                log.warning("model not readable", model=version.id, reason=error.strerror)
                raise Overloaded(
                    f"The files of model {version.id} cannot be read at the moment. Try again later."
                ) from None
            self.mark_unavailable(version.id, str(error))
            raise version.unavailable() from None

    def _get(self, model: str) -> ModelVersion:
        version = self._snapshot.versions.get(model) or self._cache.retired.get(model)
        if version is None:
            raise UnknownModel(f"There is no model {model!r}.", field="model", value=model)
        return version


def _status(version: ModelVersion, *, latest: bool) -> ModelStatus:
    state: Literal["unloaded", "loaded", "unavailable"] = "loaded" if version.loaded else "unloaded"
    state = "unavailable" if version.reason else state
    return ModelStatus(version.id, version.folder, version.manifest, state, version.reason, latest)
