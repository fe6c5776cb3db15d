"""What works on another machine: an engine of its own, and the form in which a ticket travels there and back.

A replica imports TensorFlow; who sends it tickets does not. Clocks of two machines differ, so a deadline travels as
seconds left. Refusals travel as values: what is raised here would arrive inside another error of the carrier's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from app.engine.loader import Loader
from app.engine.local import LocalEngine, warmup_requests
from app.engine.protocol import Arrays, Counters, InferenceRequest, RequestContext
from app.engine.registry import Registry
from app.errors import ServiceError
from models import repository
from models.manifest import Manifest, ManifestError
from models.repository import RepositoryError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A ticket on its way. `left` and `due` are the seconds until its deadline and until it is due; `request` is unique
    among all who send."""

    model: str
    signature: str
    inputs: Arrays = field(repr=False)
    pixels: int
    request_id: str
    client: str
    left: float
    due: float
    weight: float

    @classmethod
    def of(cls, request: InferenceRequest, sender: str, now: float) -> WireRequest:
        """Return `ticket` as `sender` sends it at `now` on its clock."""
        context = request.context
        request_id, left = f"{sender}/{context.request_id}", context.deadline - now
        inputs, pixels = request.inputs, request.pixels
        due = context.due - now
        return cls(
            request.model, request.signature, inputs, pixels, request_id, context.client, left, due, context.weight
        )

    def request(self, now: float) -> InferenceRequest:
        """Return the ticket, with its deadline on the clock of whoever received it at `now`."""
        context = RequestContext(self.request_id, self.client, now + self.left, now + self.due, weight=self.weight)
        return InferenceRequest(self.model, self.signature, self.inputs, context, self.pixels)


@dataclass(frozen=True, slots=True)
class WireResult:
    """What became of a parcel, what it used, and what the replica counted since its last reply to anybody."""

    outcome: Arrays | ServiceError = field(repr=False)
    device_seconds: dict[str, float]
    counters: Counters


class Replica:
    """An engine with the models in `folders`; `preload` names those that it loads and warms before it takes work.

    Its queue has no bound: whoever sends tickets bounds them. Its models in memory are held to `budget` as the
    Registry's are. Without `loader`, TensorFlow is imported.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        preload: Sequence[str],
        max_batch: int,
        loader: Loader | None = None,
        *,
        budget: int = 0,
    ) -> None:
        max_concurrent_batches = 1
        if loader is None:
            from app.engine.tensorflow_runtime import Runtime

            loader = runtime = Runtime()
            max_concurrent_batches = runtime.max_concurrent_batches
        self._loader = loader
        self._registry = Registry(folders, loader, budget=budget)
        self.engine = LocalEngine(
            self._registry,
            max_batch=max_batch,
            max_megapixels=float("inf"),
            max_concurrent_batches=max_concurrent_batches,
        )
        self._told = Counters()
        self._measuring: asyncio.Task[None] | None = None
        self._preloaded = preloaded(self._registry, preload)
        for manifest in self._preloaded:
            with suppress(ServiceError):  # it is in the log, and whoever asks for the model is told
                self._warm(manifest)

    async def run(self, wire_request: WireRequest) -> WireResult:
        """Return what became of a ticket. Cancelling takes it off the queue."""
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
        told, self._told = self._told, now
        return WireResult(outcome, request.context.device_seconds, now - told)

    async def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        """Return every breach of the contract in the model that lies in `folder` here, which should be `manifest`."""
        return await asyncio.to_thread(self._problems, folder, manifest)

    def _problems(self, folder: Path, manifest: Manifest) -> list[str]:
        try:
            if repository.open_model(folder) != manifest:
                return ["a replica's shelf holds another model in its place"]
            return self._loader.problems(folder, manifest)
        except (ManifestError, RepositoryError) as error:
            return error.problems
        except OSError as error:
            return [f"it cannot be read: {error.strerror}"]

    async def _measure(self) -> None:
        """Find out which batches pay."""
        for manifest in self._preloaded:
            with suppress(ServiceError):
                await self.engine.warm(manifest)

    def _warm(self, manifest: Manifest) -> None:
        self._registry.pin(manifest.id)
        model = self._registry.load(manifest.id)
        for request in warmup_requests(manifest, RequestContext(f"warm {manifest.id}")):
            model.run(request.signature, request.inputs)
        log.info("model warm", model=manifest.id)


def preloaded(registry: Registry, wanted: Sequence[str]) -> list[Manifest]:
    """Return the models that `wanted` names (`defaults`, `task/name` or `task/name@version`) and that are there."""
    chosen: dict[str, Manifest] = {}
    for entry in wanted:
        task, _, name = entry.partition("/")
        with suppress(ServiceError):
            found = registry.defaults() if entry == "defaults" else [registry.find(task, name or None)]
            chosen |= {manifest.id: manifest for manifest in found}
    return list(chosen.values())
