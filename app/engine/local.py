"""The engine of one machine: a registry and a scheduler behind the Engine protocol."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import structlog

from app.engine.protocol import Arrays, Caller, Ticket
from app.engine.registry import Model, Registry
from app.engine.scheduler import Scheduler
from models.manifest import Geometry, Manifest, Tensor

log = structlog.get_logger(__name__)


class LocalEngine:
    """Implements `protocol.Engine` with models in this process. `max_batch` caps what manifests allow."""

    def __init__(
        self,
        registry: Registry,
        *,
        max_batch: int = 64,
        max_tickets: int = 256,
        max_megapixels: float = 64.0,
        accelerated: bool = False,
    ) -> None:
        self.registry = registry
        self.accelerated = accelerated
        self.scheduler = Scheduler(self._execute, max_tickets=max_tickets, max_megapixels=max_megapixels)
        self._max_batch = max_batch
        self._limits: dict[str, int] = {}
        self._loads: dict[str, asyncio.Task[Model]] = {}

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None."""
        manifest = self.registry.find(task, name)
        self._limits[manifest.id] = min(self._max_batch, max(manifest.serving.batch_sizes))
        return manifest

    async def run(self, ticket: Ticket) -> Arrays:
        """Return the outputs of `ticket`, loading its model if it is not in memory."""
        if self.registry.loaded(ticket.model) is None:
            await self._load(ticket.model)
        return await self.scheduler.submit(ticket, self._limits.get(ticket.model, 1))

    async def warm(self, manifest: Manifest, *, every_size: bool = False) -> None:
        """Load a model and run each signature once at its first tile size, or at every one, so that requests find
        it ready. Raises what `run` raises."""
        manifest = self.find(manifest.task, f"{manifest.name}@{manifest.version}")
        sizes = warm_sizes(manifest.geometry)
        caller = Caller(request_id=f"warm {manifest.id}", client="warm-up")
        for name, size in itertools.product(manifest.signatures, sizes if every_size else sizes[:1]):
            inputs = {key: _grey(tensor, size) for key, tensor in manifest.signatures[name].inputs.items()}
            await self.run(Ticket(manifest.id, name, inputs, caller, pixels=size[0] * size[1]))
        log.info("model warm", model=manifest.id, seconds=round(caller.spent.get("model", 0.0), 2))

    async def close(self, limit: float) -> None:
        """End gracefully: what is here gets `limit` seconds, then ShuttingDown."""
        await self.scheduler.close(limit)

    async def _load(self, model: str) -> None:
        # One load however many wait, and it goes on when those who wait go away.
        task = self._loads.get(model)
        if task is None:
            task = self._loads[model] = asyncio.create_task(asyncio.to_thread(self.registry.load, model))
            task.add_done_callback(lambda done: self._loaded(model, done))
        await asyncio.shield(task)

    def _loaded(self, model: str, done: asyncio.Task[Model]) -> None:
        del self._loads[model]
        if not done.cancelled():
            done.exception()  # seen, even where everybody who waited has gone

    def _execute(self, model: str, signature: str, inputs: Arrays) -> Arrays:
        return self.registry.load(model).run(signature, inputs)


def warm_sizes(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the sizes (height, width) that a model of this geometry is called with, the usual one first."""
    if geometry.kind == "tiled":
        return [(side, side) for side in sorted({geometry.tile_step, geometry.tile_size})]
    if geometry.kind == "whole":
        rule = geometry.size_rule
        size = 64 if rule is None else 64 - 64 % rule.modulus + rule.modulus + rule.remainder
        return [(size, size)]
    return list(geometry.canonical_sizes if geometry.kind == "canonical" else geometry.valid_sizes)


def _grey(tensor: Tensor, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a batch of one for `tensor`: mid-grey, or the middle of its range."""
    low, high = tensor.range or (0.0, 1.0)
    free = iter(size)
    rest = [(next(free, 1) if tensor.per == "tile" else 1) if n == -1 else n for n in tensor.shape[1:]]
    return np.full((1, *rest), (low + high) / 2, np.float32)
