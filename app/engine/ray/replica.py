"""A replica: a local engine in a process of its own, on a node of the cluster. It imports TensorFlow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from app.engine.loader import Loader
from app.engine.local import LocalEngine, warmup_requests
from app.engine.precision import PrecisionChoice, PrecisionSetting
from app.engine.protocol import Arrays, Counters, InferenceRequest, RequestContext
from app.engine.ray.wire import WireRequest, WireResult
from app.engine.registry import Registry
from app.errors import ServiceError
from models import repository
from models.manifest import Manifest, ManifestError
from models.repository import RepositoryError

log = structlog.get_logger(__name__)


class Replica:
    """An engine with the models in `folders`; `preload` names those that it loads and warms before it takes requests.

    Its queue has no limit: senders limit what they send. Its models in memory are held to `budget` bytes as the
    Registry's are, and computed in `precision` where they allow it. Without `loader`, TensorFlow is imported.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        preload: Sequence[str],
        max_batch: int,
        loader: Loader | None = None,
        *,
        defaults: Mapping[str, str] | None = None,
        budget: int = 0,
        precision: PrecisionSetting = "float32",
    ) -> None:
        max_concurrent_batches = 1
        if loader is None:
            from app.engine.tensorflow_runtime import Runtime

            loader = runtime = Runtime()
            max_concurrent_batches = runtime.max_concurrent_batches
        self._loader = loader
        self._registry = Registry(folders, loader, budget=budget, defaults=defaults)
        self.engine = LocalEngine(
            self._registry,
            max_batch=max_batch,
            max_megapixels=float("inf"),
            max_concurrent_batches=max_concurrent_batches,
            precision=precision,
        )
        self._precision: PrecisionSetting = precision
        self._reported = Counters()
        self._measuring: asyncio.Task[None] | None = None
        self._preloads = find_preloads(self._registry, preload)
        for manifest in self._preloads:
            with suppress(ServiceError):  # it is in the log, and a request for the model gets the error
                self._warm(manifest)

    async def run(self, wire_request: WireRequest) -> WireResult:
        """Return the result of a request. Cancelling takes it off the queue."""
        if self._measuring is None:  # there is an event loop now
            self._measuring = asyncio.create_task(self._measure())
        request = wire_request.request(time.monotonic())
        outcome: Arrays | ServiceError
        try:
            task, _, name = request.model.partition("/")
            self.engine.find(task, name)
            outcome = await self.engine.run(request)
        except ServiceError as error:
            outcome = error
        now = self.engine.counters + Counters()  # a copy
        reported, self._reported = self._reported, now
        usage = request.context.usage
        return WireResult(outcome, usage.device_seconds, usage.precision(request.signature), now - reported)

    async def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the model that lies in `folder` here, which should be `manifest`."""
        return await asyncio.to_thread(self._problems, folder, manifest)

    def _problems(self, folder: Path, manifest: Manifest) -> list[str]:
        try:
            if repository.open_model(folder) != manifest:
                return ["a replica has a different model in this folder"]
            return self._loader.problems(folder, manifest)
        except (ManifestError, RepositoryError) as error:
            return error.problems
        except OSError as error:
            return [f"it cannot be read: {error.strerror}"]

    async def _measure(self) -> None:
        """Measure the latency of batches of the preloaded models."""
        for manifest in self._preloads:
            with suppress(ServiceError):
                await self.engine.warm(manifest)

    def _warm(self, manifest: Manifest) -> None:
        self._registry.pin(manifest.id)
        model = self._registry.load(manifest.id)
        for request in warmup_requests(manifest, RequestContext(f"warm {manifest.id}")):
            model.run(self._function(manifest, request), request.inputs)
        log.info("model warm", model=manifest.id)

    def _function(self, manifest: Manifest, request: InferenceRequest) -> str:
        """Return the function that will compute a request."""
        choice = PrecisionChoice.of(manifest, request.signature)
        choice.used = choice.preferred(self._precision) or choice.own
        return choice.functions[choice.for_request(request.inputs, request.context)]


def find_preloads(registry: Registry, wanted: Sequence[str]) -> list[Manifest]:
    """Return the models that `wanted` names (`defaults`, `task/name` or `task/name@version`) and that can be served."""
    chosen: dict[str, Manifest] = {}
    for entry in wanted:
        task, _, name = entry.partition("/")
        with suppress(ServiceError):
            found = registry.defaults() if entry == "defaults" else [registry.find(task, name or None)]
            chosen |= {manifest.id: manifest for manifest in found}
    return list(chosen.values())
