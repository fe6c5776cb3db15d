"""The engine of one machine: a registry, and a scheduler for each device, behind the Engine protocol."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import structlog

from app.engine.latency_model import MAX_BATCH_S, LatencyModel
from app.engine.protocol import Arrays, Counters, InferenceRequest, ModelStatus, RequestContext
from app.engine.registry import Registry
from app.engine.scheduler import Scheduler
from app.errors import ModelUnavailable, ServiceError
from models.manifest import Geometry, Manifest, Tensor

log = structlog.get_logger(__name__)

MARGIN = 1.1
"""How many times as fast as the float32 function one of another precision must be to be used in its place."""

_TURNS = 4


class LocalEngine:
    """Implements `protocol.ModelServer` with models in this process.

    `max_batch` caps the batch sizes of manifests. Each device runs `max_concurrent_batches` at once.

    A request goes to the device with the least work ahead, so that the tiles of a picture spread; a model is loaded on
    a device when its first request comes there.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        max_batch: int = 64,
        max_megapixels: float = 64.0,
        max_concurrent_batches: int = 1,
        accelerated: bool = False,
        device: str = "unnamed",
        latency: LatencyModel | None = None,
    ) -> None:
        self.registry = registry
        self.device = device
        self.accelerated = accelerated
        self.latency = LatencyModel() if latency is None else latency
        self.schedulers = {
            name: Scheduler(
                functools.partial(self._execute, name),
                max_concurrent_batches=max_concurrent_batches,
                latency=self.latency,
                max_megapixels=max_megapixels,
            )
            for name in registry.devices
        }
        self._max_batch = max_batch
        self._limits: dict[str, int] = {}
        self._loads: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._loading_requests: Counter[str] = Counter()  # requests that wait for a model to be loaded, by device
        self._functions: dict[str, dict[str, str]] = {}  # {model: {signature: function that computes it}}
        self._chosen_for: dict[str, Manifest] = {}  # the manifest for which that was measured
        self._choosing = asyncio.Lock()

    @property
    def worker_count(self) -> int:
        """How many devices work at once."""
        return len(self.schedulers)

    @property
    def devices(self) -> Mapping[str, Scheduler]:
        """What waits and what was done, by device."""
        return self.schedulers

    @property
    def counters(self) -> Counters:
        """What happened on all devices since the start."""
        return sum((scheduler.counters for scheduler in self.schedulers.values()), Counters())

    def statuses(self) -> list[ModelStatus]:
        """Return all versions of all models, by task, name and version."""
        return self.registry.statuses()

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""
        return self.registry.defaults()

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None.

        The precision of its signatures is the one that they are computed with here, once the model was loaded.
        """
        manifest = self.registry.find(task, name)
        self._limits[manifest.id] = min(self._max_batch, max(manifest.serving.batch_sizes))
        return self.as_run(manifest)

    def as_run(self, manifest: Manifest) -> Manifest:
        """Return `manifest` with the precision that each signature is computed with here."""
        chosen = self._functions.get(manifest.id)
        if not chosen:
            return manifest
        signatures = {
            name: signature.at(manifest.functions.get(chosen.get(name, name), signature).precision)
            for name, signature in manifest.signatures.items()
        }
        return manifest.model_copy(update={"signatures": signatures})

    async def run(self, request: InferenceRequest) -> Arrays:
        """Return the outputs of `request`, loading its model if it is not in memory."""
        return await self._run(request, self._least_busy(self.registry.places(request.model)))

    async def warm(self, manifest: Manifest, *, keep: bool = False, every_size: bool = False) -> None:
        """Load a model on every device and run each signature at its first tile size, or at every one, so that
        requests find it ready.

        Batch latencies are measured as well, also at other sizes where that is quick. With `keep` the model is unloaded
        last. Raises what `run` raises.
        """
        if keep:
            self.registry.pin(manifest.id)
        manifest = self.find(manifest.task, f"{manifest.name}@{manifest.version}")
        context = RequestContext(request_id=f"warm {manifest.id}", client="warm-up", probe=True)
        first = warm_sizes(manifest.geometry)[0]
        for device, request in itertools.product(self.schedulers, warmup_requests(manifest, context, every_size=True)):
            is_quick = 2 * self.latency.seconds(manifest.id, request.signature, request.pixels) <= MAX_BATCH_S
            if every_size or is_quick or request.pixels == first[0] * first[1]:
                await self._measure(request, device)
        self.registry.mark_ready(manifest.id)
        log.info("model warm", model=manifest.id, seconds=round(context.usage.device_seconds, 2))

    async def _measure(self, request: InferenceRequest, device: str) -> None:
        """Run `request`, and measure its batches if they were not measured at an earlier start."""
        await self._run(request, device)
        limit = self._limits[request.model]
        if limit > 1 and not self.latency.knows(request.model, request.signature, request.pixels, 2):
            await self.schedulers[device].measure(request, limit)

    async def refresh(self) -> None:
        """Poll the model repository. New versions are promoted once they are warm; what cannot be warmed never is."""
        await asyncio.to_thread(self.registry.poll)
        for manifest in self.registry.pending_promotions():
            try:
                await self.warm(manifest)
            except ModelUnavailable as error:
                self.registry.mark_unavailable(manifest.id, error.detail)
            except ServiceError as error:  # it may work later
                log.warning("warm-up postponed", model=manifest.id, reason=error.detail)
            except Exception as error:
                log.exception("warm-up failed", model=manifest.id)
                self.registry.mark_unavailable(manifest.id, type(error).__name__)

    async def close(self, limit: float) -> None:
        """End gracefully: admitted requests get `limit` seconds, then ShuttingDown."""
        await asyncio.gather(*(scheduler.close(limit) for scheduler in self.schedulers.values()))

    def _least_busy(self, devices: Iterable[str]) -> str:
        """Return the device with the least work ahead, of equal ones the one that fewest
        requests wait to load a model on."""
        first, *others = devices
        if not others:  # the usual case: what waits need not be counted
            return first
        return min(devices, key=lambda name: (self.schedulers[name].seconds_ahead(), self._loading_requests[name]))

    async def _run(self, request: InferenceRequest, device: str) -> Arrays:
        with self.registry.lease(request.model):
            if (request.model, device) in self._loads or self.registry.find_loaded(request.model, device) is None:
                self._loading_requests[device] += 1
                try:
                    await self._load(request.model, device)
                finally:
                    self._loading_requests[device] -= 1
            return await self.schedulers[device].submit(request, self._limits.get(request.model, 1))

    async def _load(self, model: str, device: str) -> None:
        # One load for all requests that wait for it; it goes on when they are cancelled.
        key = model, device
        task = self._loads.get(key)
        if task is None:
            task = self._loads[key] = asyncio.create_task(self._load_and_choose(model, device))
            task.add_done_callback(lambda done: self._end_load(key, done))
        await asyncio.shield(task)

    async def _load_and_choose(self, model: str, device: str) -> None:
        await asyncio.to_thread(self.registry.load, model, device)
        task, _, name = model.partition("/")
        manifest = self.registry.find(task, name)
        async with self._choosing:
            measured = self._chosen_for.get(model, manifest)
            if (measured.files, measured.signatures) != (manifest.files, manifest.signatures):
                self._functions.pop(model, None)  # another model with the same version number
            if model not in self._functions and any(one.precisions for one in manifest.signatures.values()):
                self._functions[model] = await self._choose_functions(manifest, device)
                self._chosen_for[model] = manifest

    def _end_load(self, key: tuple[str, str], done: asyncio.Task[None]) -> None:
        del self._loads[key]
        if not done.cancelled():
            done.exception()  # retrieved, also when no request waits any more

    async def _choose_functions(self, manifest: Manifest, device: str) -> dict[str, str]:
        """Return {signature: function to run for it}: precisions are timed, in turn, on a whole tile.

        One choice per model on all devices: the tiles of a picture are all of one precision.
        """
        size = warm_sizes(manifest.geometry)[-1]
        chosen = {}
        for name, signature in manifest.signatures.items():
            seconds = {function: [math.inf] for function in (name, *signature.precisions.values())}
            for turn, function in itertools.product(range(_TURNS), seconds if signature.precisions else ()):
                taken = await self._measure_function(manifest, function, size, device)
                seconds[function] += [taken] if turn else []  # the first call of a shape prepares it
            chosen[name] = clearly_fastest(name, seconds)
            if signature.precisions:
                best = {function: round(min(times), 4) for function, times in seconds.items()}
                log.info("precision chosen", model=manifest.id, signature=name, function=chosen[name], seconds=best)
        return chosen

    async def _measure_function(self, manifest: Manifest, function: str, size: tuple[int, int], device: str) -> float:
        """Return the seconds that a call of `function` takes; infinity where the device cannot run it."""
        context = RequestContext(request_id=f"measure {manifest.id}", client="warm-up", probe=True)
        try:
            await self.schedulers[device].submit(_gray_request(manifest, function, size, context), 1)
        except ModelUnavailable:
            return math.inf
        return context.usage.device_seconds

    def _execute(self, device: str, model: str, signature: str, inputs: Arrays) -> Arrays:
        function = self._functions.get(model, {}).get(signature, signature)
        with self.registry.lease(model):
            return self.registry.load(model, device).run(function, inputs)


def clearly_fastest(usual: str, seconds: Mapping[str, Sequence[float]]) -> str:
    """Return the function that took least at its best, or the `usual` one where that is no slower by the margin."""
    best = min(seconds, key=lambda function: min(seconds[function]))
    return best if min(seconds[best]) * MARGIN < min(seconds[usual]) else usual


def warmup_requests(
    manifest: Manifest, context: RequestContext, *, every_size: bool = False
) -> Iterator[InferenceRequest]:
    """Yield a request for each signature at the model's first tile size, or at every one."""
    sizes = warm_sizes(manifest.geometry)
    for name, size in itertools.product(manifest.signatures, sizes if every_size else sizes[:1]):
        yield _gray_request(manifest, name, size, context)


def warm_sizes(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the sizes (height, width) that a model of this geometry is called with, the usual one first."""
    if geometry.kind == "tiled":
        return [(side, side) for side in sorted({geometry.tile_step, geometry.tile_size})]
    if geometry.kind == "whole":
        rule = geometry.size_rule
        size = 64 if rule is None else 64 - 64 % rule.modulus + rule.modulus + rule.remainder
        return [(size, size)]
    return list(geometry.canonical_sizes if geometry.kind == "canonical" else geometry.valid_sizes)


def _gray_request(
    manifest: Manifest, function: str, size: tuple[int, int], context: RequestContext
) -> InferenceRequest:
    inputs = {key: _gray(tensor, size) for key, tensor in manifest.functions[function].inputs.items()}
    return InferenceRequest(manifest.id, function, inputs, context, pixels=size[0] * size[1])


def _gray(tensor: Tensor, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a batch of one for `tensor`: mid-gray, or the middle of its range."""
    low, high = tensor.range or (0.0, 1.0)
    free = iter(size)
    rest = [(next(free, 1) if tensor.per == "tile" else 1) if n == -1 else n for n in tensor.shape[1:]]
    return np.full((1, *rest), (low + high) / 2, np.float32)
