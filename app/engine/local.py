"""The engine of one machine: a registry, and a scheduler for each device, behind the Engine protocol."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import structlog

from app.engine.latency_model import MAX_BATCH_S, LatencyModel
from app.engine.precision import BFloat16Speed, MeasuredPrecisions, Precision, PrecisionChoice, PrecisionSetting
from app.engine.protocol import Arrays, Counters, InferenceRequest, ModelStatus, RequestContext
from app.engine.registry import Registry
from app.engine.scheduler import Scheduler
from app.errors import ModelUnavailable, ServiceError
from models.manifest import Geometry, Manifest, Tensor

log = structlog.get_logger(__name__)

MARGIN = 1.1
"""How many times as fast as the usual precision another one must be measured to be used in its place."""

_TURNS = 3


class LocalEngine:
    """Implements `protocol.ModelServer` with models in this process.

    `max_batch` caps the batch sizes of manifests. Each device runs `max_concurrent_batches` at once.
    `tile_mebibytes` is that of `protocol.Engine`.

    A request goes to the device with the least work ahead, so that the tiles of a picture spread; a model is loaded on
    a device when its first request comes there.

    `precision` says in which precision models are computed, where they have it; `auto` takes the fastest one, by what
    the processor tells (`bfloat16`) and what is measured where that is not enough. `measured` keeps these answers.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        max_batch: int = 64,
        max_megapixels: float = 64.0,
        max_concurrent_batches: int = 1,
        accelerated: bool = False,
        tile_mebibytes: int = 0,
        device: str = "unnamed",
        latency: LatencyModel | None = None,
        precision: PrecisionSetting = "float32",
        bfloat16: BFloat16Speed = "unknown",
        measured: MeasuredPrecisions | None = None,
    ) -> None:
        self.registry = registry
        self.device = device
        self.accelerated = accelerated
        self.tile_mebibytes = tile_mebibytes
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
        self._precision: PrecisionSetting = precision
        self._bfloat16: BFloat16Speed = bfloat16
        self._measured = MeasuredPrecisions() if measured is None else measured
        self._choices: dict[str, dict[str, PrecisionChoice]] = {}  # by model and signature
        self._chosen_for: dict[str, Manifest] = {}  # the manifest for which that was chosen
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
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None."""
        manifest = self.registry.find(task, name)
        self._limits[manifest.id] = min(self._max_batch, max(manifest.serving.batch_sizes))
        return manifest

    def precisions(self, manifest: Manifest) -> dict[str, str]:
        """Return {signature: the precision that it is computed in}; of a model that was never loaded, as far as that is
        known."""
        chosen = self._choices.get(manifest.id, {})
        return {
            name: chosen[name].used if name in chosen else self._plan(manifest, name) for name in manifest.signatures
        }

    def _plan(self, manifest: Manifest, signature: str) -> str:
        choice = PrecisionChoice.of(manifest, signature)
        preferred = choice.preferred(self._precision, self._bfloat16)
        return preferred or self._measured.get(manifest, signature) or choice.known_fastest(self._bfloat16)

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
            is_first = every_size or request.pixels == first[0] * first[1]
            if is_first or 2 * self._seconds(request) <= MAX_BATCH_S:
                await self._measure(request, device)
        self.registry.mark_ready(manifest.id)
        log.info("model warm", model=manifest.id, seconds=round(context.usage.device_seconds, 2))

    async def _measure(self, request: InferenceRequest, device: str) -> None:
        """Run `request`, and measure its batches if they were not measured at an earlier start."""
        await self._run(request, device)
        request, limit = self._resolve(request)
        if limit > 1 and not self.latency.knows(request.model, request.signature, request.pixels, 2):
            await self.schedulers[device].measure(request, limit)

    def _seconds(self, request: InferenceRequest) -> float:
        resolved, _ = self._resolve(request)
        return self.latency.seconds(resolved.model, resolved.signature, resolved.pixels)

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
            if (request.model, device) in self._loads or not self._is_ready(request.model, device):
                self._loading_requests[device] += 1
                try:
                    await self._load(request.model, device)
                finally:
                    self._loading_requests[device] -= 1
            resolved, limit = self._resolve(request)
            return await self.schedulers[device].submit(resolved, limit)

    def _is_ready(self, model: str, device: str) -> bool:
        return model in self._choices and self.registry.find_loaded(model, device) is not None

    def _resolve(self, request: InferenceRequest) -> tuple[InferenceRequest, int]:
        """Return `request` for the function that computes its signature, and the largest batch that this takes."""
        limit = self._limits.get(request.model, 1)
        choice = self._choices.get(request.model, {}).get(request.signature)
        if choice is None:
            return request, limit
        precision = choice.for_request(request.inputs, request.context)
        request.context.usage.add_precision(request.signature, precision)
        return replace(request, signature=choice.functions[precision]), 1 if precision == "int8" else limit

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
            chosen_for = self._chosen_for.get(model)
            # It may be another model with the same version number.
            if chosen_for is None or (chosen_for.files, chosen_for.signatures) != (manifest.files, manifest.signatures):
                self._choices.pop(model, None)
                self._choices[model] = await self._choose(manifest, device)
                self._chosen_for[model] = manifest

    def _end_load(self, key: tuple[str, str], done: asyncio.Task[None]) -> None:
        del self._loads[key]
        if not done.cancelled():
            done.exception()  # retrieved, also when no request waits any more

    async def _choose(self, manifest: Manifest, device: str) -> dict[str, PrecisionChoice]:
        """Return the choice for each signature. It holds for all devices: the tiles of a picture are of one
        precision."""
        choices = {name: PrecisionChoice.of(manifest, name) for name in manifest.signatures}
        for name, choice in choices.items():
            wanted = choice.preferred(self._precision, self._bfloat16)
            kept = self._measured.get(manifest, name)
            wanted = wanted or next((one for one in choice.candidates(self._bfloat16) if one == kept), None)
            wanted = wanted or await self._find_fastest(manifest, name, choice, device)
            if self._precision == "auto":
                choice.rest = choice.known_fastest(self._bfloat16)
            if wanted != "int8" or await self._works(manifest, name, choice, device):
                choice.used = wanted
            else:
                log.warning("precision not available", model=manifest.id, signature=name, precision=wanted)
        return choices

    async def _works(self, manifest: Manifest, name: str, choice: PrecisionChoice, device: str) -> bool:
        """Return whether the function for int8 runs: LiteRT may not be installed, or not take the file."""
        request = _gray_request(manifest, name, _whole_tile(manifest, name))
        return math.isfinite(await self._time(replace(request, signature=choice.functions["int8"]), device))

    async def _find_fastest(self, manifest: Manifest, name: str, choice: PrecisionChoice, device: str) -> Precision:
        """Return the precision that took least at its best, or the one known to be fast if it is no slower by MARGIN.

        They are timed in turn, on a whole tile. The answer is kept if all of them worked.
        """
        request = _gray_request(manifest, name, _whole_tile(manifest, name))
        seconds: dict[Precision, list[float]] = {precision: [] for precision in choice.candidates(self._bfloat16)}
        for turn, (precision, times) in itertools.product(range(_TURNS), seconds.items()):
            taken = await self._time(replace(request, signature=choice.functions[precision]), device)
            times += [taken] if turn else []  # the first call of a size prepares it
        best = {precision: min(times) for precision, times in seconds.items()}
        found = clearly_fastest(choice.known_fastest(self._bfloat16), best)
        log.info("precision measured", model=manifest.id, signature=name, precision=found, seconds=best)
        if all(map(math.isfinite, best.values())):
            await asyncio.to_thread(self._measured.keep, manifest, name, found)
        return found

    async def _time(self, request: InferenceRequest, device: str) -> float:
        """Return the device seconds that a request takes; infinity where the device cannot run it."""
        before = request.context.usage.device_seconds
        try:
            await self.schedulers[device].submit(request, 1)
        except ModelUnavailable:
            return math.inf
        return request.context.usage.device_seconds - before

    def _execute(self, device: str, model: str, signature: str, inputs: Arrays) -> Arrays:
        with self.registry.lease(model):
            loaded = self.registry.load(model, device)
            try:
                return loaded.run(signature, inputs)
            except ModelUnavailable:
                choice = self._find_choice(model, signature)
                if choice is None:
                    raise
                outputs = loaded.run(choice.functions[choice.own], inputs)
                log.error("precision failed", model=model, function=signature, used=choice.own)
                choice.used = choice.rest = choice.own
                return outputs

    def _find_choice(self, model: str, function: str) -> PrecisionChoice | None:
        """Return the choice with `function`, unless that is the signature itself or the choice is yet to be made."""
        for choice in self._choices.get(model, {}).values():
            if function != choice.functions[choice.own] and function in choice.functions.values():
                return choice
        return None


def clearly_fastest(usual: Precision, seconds: Mapping[Precision, float]) -> Precision:
    """Return the precision with the fewest seconds, or the `usual` one where that is no slower by MARGIN."""
    best = min(seconds, key=lambda precision: seconds[precision])
    return best if seconds[best] * MARGIN < seconds[usual] else usual


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


def _whole_tile(manifest: Manifest, signature: str) -> tuple[int, int]:
    """Return the size (height, width) to measure precisions with: one that a quantized signature has, if there is
    one."""
    sizes = (entry.sizes[0] for entry in manifest.quantized if entry.signature == signature)
    return next(sizes, warm_sizes(manifest.geometry)[-1])


def _gray_request(
    manifest: Manifest, name: str, size: tuple[int, int], context: RequestContext | None = None
) -> InferenceRequest:
    context = RequestContext(f"measure {manifest.id}", client="warm-up", probe=True) if context is None else context
    inputs = {key: _gray(tensor, size) for key, tensor in manifest.signatures[name].inputs.items()}
    return InferenceRequest(manifest.id, name, inputs, context, pixels=size[0] * size[1])


def _gray(tensor: Tensor, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a batch of one for `tensor`: mid-gray, or the middle of its range."""
    low, high = tensor.range or (0.0, 1.0)
    return np.full(tensor.shape_at(size), (low + high) / 2, np.float32)
