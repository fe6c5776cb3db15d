"""The models in memory: loads them, counts who uses them, and unloads them to stay within the memory budget."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from app.engine.loader import Loader, Model
from app.engine.repository import is_same_model
from app.engine.versions import ModelVersion
from models import repository
from models.manifest import Manifest
from models.repository import RepositoryError

log = structlog.get_logger(__name__)

UNLOAD_GRACE_S = 60.0
"""Seconds after its last use for which a removed model stays in memory: one request uses it many times."""


class ModelCache:
    """Models in memory, at most about `budget` bytes of them on each device (0: any number).

    To load a further one, unused models are unloaded, the least recently used first. Where all are in use it
    is loaded all the same. `retired` has the versions, by id, that were removed while they were in use. `lock`
    guards leases, `retired` and the models in memory, and is never held during a load.
    """

    def __init__(
        self,
        loader: Loader,
        lock: threading.RLock,
        *,
        budget: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.retired: dict[str, ModelVersion] = {}
        self._loader = loader
        self._lock = lock
        self._budget = budget
        self._clock = clock
        self._resident: dict[ModelVersion, None] = {}  # the versions in memory, in the order of their first load
        self._loading_bytes: Counter[str] = Counter()  # by device

    @property
    def devices(self) -> Sequence[str]:
        """What models are loaded on, the default first."""
        return self._loader.devices

    def acquire(self, version: ModelVersion) -> None:
        """Keep `version` in memory, once it is loaded, until it is released as often as it was acquired."""
        with self._lock:
            version.leases += 1

    def release(self, version: ModelVersion) -> None:
        """End one use of `version`."""
        with self._lock:
            version.leases -= 1
            version.last_used = self._clock()

    def retire(self, removed: Mapping[str, ModelVersion], current: Mapping[str, ModelVersion]) -> None:
        """Keep those of the `removed` versions that are in use; forget retired ones that are `current` again."""
        with self._lock:
            kept = {model: version for model, version in self.retired.items() if model not in current}
            self.retired = kept | {model: version for model, version in removed.items() if version.in_use}

    def load(self, version: ModelVersion, manifest: Manifest, device: str) -> Model:
        """Load `version` on `device`; the caller holds its `load_lock`.

        Raises ModelUnavailable, ManifestError or RepositoryError for a model that does not work; Overloaded where the
        device has too little memory now; OSError.
        """
        # Checked again: since the scan its files may have been changed, or damaged.
        if not is_same_model(repository.open_model(version.folder), manifest):
            raise RepositoryError(["its manifest was changed"])
        version.memory_bytes = self._loader.size(version.folder)
        with self._reserve(version.memory_bytes, device):
            model = self._loader.load(version.folder, manifest, device)
            with self._lock:
                version.loaded[device] = model
                version.last_used = self._clock()
                self._resident[version] = None
        mebibytes = round(version.memory_bytes / 2**20, 1)
        log.info("model loaded", model=version.id, device=device, mebibytes=mebibytes)
        return model

    def unload_if_idle(self, version: ModelVersion) -> None:
        """Unload a version from all devices, unless it is leased."""
        with self._lock:
            idle = [] if version.leases else self._remove([version])
        self._unload(idle)

    def unload_expired(self) -> None:
        """Unload retired versions that were not used for UNLOAD_GRACE_S, what failed while it was in use, and what is
        above the budget."""
        with self._lock:
            now = self._clock()
            expired = [
                version
                for version in self.retired.values()
                if not version.leases and now - version.last_used >= UNLOAD_GRACE_S
            ]
            failed = [
                version
                for version in self._resident
                if version.reason and not version.leases and version.id not in self.retired
            ]
            gone = {version.id for version in expired}
            self.retired = {model: version for model, version in self.retired.items() if model not in gone}
            idle = self._remove([*expired, *failed])
        self._unload(idle)
        for device in self.devices:
            self._make_room(device)

    @contextmanager
    def _reserve(self, size: int, device: str) -> Iterator[None]:
        """Count `size` bytes as taken meanwhile, and unload what is above the budget."""
        with self._lock:
            self._loading_bytes[device] += size
        try:
            excess = self._make_room(device)
            if size and excess > 0:
                log.warning("memory budget exceeded", device=device, mebibytes=round(excess / 2**20, 1))
            yield
        finally:
            with self._lock:
                self._loading_bytes[device] -= size

    def _make_room(self, device: str) -> int:
        """Unload unused models, the least recently used first, until the device's models are within the budget.

        Returns the bytes that remain above it.
        """
        if not self._budget:
            return 0
        evicted = []
        with self._lock:
            resident = [version for version in self._resident if device in version.loaded]
            excess = sum(version.memory_bytes for version in resident) + self._loading_bytes[device] - self._budget
            # A removed version could not be loaded again: `unload_expired` unloads it.
            idle = [version for version in resident if not version.leases and not version.removed]
            for version in sorted(idle, key=lambda one: (one.pinned, one.last_used)):
                if excess > 0:
                    evicted.append((version, device, version.loaded.pop(device)))
                    excess -= version.memory_bytes
            self._drop_empty()
        self._unload(evicted)
        return excess

    def _remove(self, versions: Sequence[ModelVersion]) -> list[tuple[ModelVersion, str, Model]]:
        """Remove versions from the cache and return their models, to be unloaded; with the lock held."""
        removed = [(version, device, model) for version in versions for device, model in version.loaded.items()]
        for version in versions:
            version.loaded.clear()
        self._drop_empty()
        return removed

    def _drop_empty(self) -> None:
        self._resident = {version: None for version in self._resident if version.loaded}

    def _unload(self, models: Sequence[tuple[ModelVersion, str, Model]]) -> None:
        for version, device, model in models:
            self._loader.unload(model)
            log.info("model unloaded", model=version.id, device=device)
