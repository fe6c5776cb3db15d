"""Replicas for tests. They run in processes of their own, on the nodes of a cluster."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.engine.protocol import Arrays
from app.engine.ray.replica import Replica
from app.engine.ray.wire import WireRequest, WireResult
from app.engine.tensorflow_runtime import LoadedModel, Runtime
from models.manifest import Manifest

PAUSE_S = 0.3


@dataclass(frozen=True)
class Account:
    """A replica's report: its process, its node, and how many tiles of each request it has not answered."""

    pid: int
    node: str
    held: Counter[str]


class _Slowed:
    """A model that takes PAUSE_S longer."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        time.sleep(PAUSE_S)
        return self.model.run(signature, inputs)


class _SlowRuntime(Runtime):
    """TensorFlow, with every model slowed."""

    def load(self, folder: Path, manifest: Manifest, device: str = "") -> _Slowed:  # type: ignore[override]
        return _Slowed(super().load(folder, manifest, device))

    def unload(self, model: _Slowed) -> None:  # type: ignore[override]
        super().unload(model.model)


class Watched(Replica):
    """A replica of the real models that is slow and reports what it holds."""

    def __init__(self, folders: Sequence[Path], preload: Sequence[str], max_batch: int, **options: Any) -> None:
        super().__init__(folders, preload, max_batch, _SlowRuntime(), **options)
        self._held: Counter[str] = Counter()

    async def run(self, wire_request: WireRequest) -> WireResult:
        self._held[wire_request.request_id] += 1
        try:
            return await super().run(wire_request)
        finally:
            self._held[wire_request.request_id] -= 1

    async def account(self) -> Account:
        import ray

        return Account(os.getpid(), ray.get_runtime_context().get_node_id(), +self._held)
