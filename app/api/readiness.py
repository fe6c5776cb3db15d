"""Readiness probe: runs a small picture through the default model of each task, as a request would."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.engine.protocol import ModelServer, RequestContext
from app.errors import DeadlineExceeded, ServiceError, UnknownModel
from app.imaging import codec
from app.imaging.picture import Picture
from app.tasks.base import Task
from models.manifest import Manifest

log = structlog.get_logger("restore.readiness")

FRESH_S = 5.0
"""Seconds for which a result is cached."""

TIMEOUT_S = 15.0
"""Timeout of a probe, in seconds."""

TOLERANCE = 2
"""Allowed difference of a pixel value, 0 to 255, from the first probe: the order of additions may vary."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether a task is ready, and if not, a short reason for the operator of the service."""

    ready: bool
    reason: str = ""


class ReadinessProbe:
    """Runs the default model of each of `tasks` on a small picture, and caches the results for FRESH_S."""

    def __init__(
        self, engine: ModelServer, tasks: Sequence[Task[Any]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._tasks = {task.name: task for task in tasks}
        self._clock = clock
        self._numbers = itertools.count(1)
        self._results: dict[str, ProbeResult] = {}
        self._probed_at: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._references: dict[tuple[str, ...], NDArray[Any]] = {}  # by the model's id, digests and precisions
        self.warming = True
        """While True, a probe does not load models, because they are being loaded at start. Set to False afterwards."""

    async def check(self) -> dict[str, ProbeResult]:
        """Return the result for each task that has models, at most FRESH_S old. Safe to call concurrently."""
        async with self._lock:
            served = {status.id.partition("/")[0] for status in self._engine.statuses()}
            tasks = [task for task in self._tasks if task in served]
            if not self._engine.worker_count:
                self._probed_at.clear()  # earlier results are not valid when the workers are back
                return dict.fromkeys(tasks, ProbeResult(False, "no worker"))
            stale = [task for task in tasks if self._clock() - self._probed_at.get(task, -float("inf")) > FRESH_S]
            results = await asyncio.gather(*(self._probe(task) for task in stale))
            fresh = {task: self._results[task] for task in tasks if task not in stale}
            return fresh | dict(zip(stale, results, strict=True))

    async def _probe(self, task: str) -> ProbeResult:
        try:
            model = self._engine.find(task)
        except UnknownModel:
            return ProbeResult(False, "no default model")
        except ServiceError as error:
            return ProbeResult(False, type(error).__name__)
        if self.warming and not self._is_loaded(model):
            return ProbeResult(False, "loading")
        result = await self._run_and_compare(task, model)
        self._results[task], self._probed_at[task] = result, self._clock()
        return result

    def _is_loaded(self, model: Manifest) -> bool:
        return any(status.id == model.id and status.state == "loaded" for status in self._engine.statuses())

    async def _run_and_compare(self, task: str, model: Manifest) -> ProbeResult:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                pixels = await self._run(task, model)
        except (TimeoutError, DeadlineExceeded):
            return _report_failure(model, "no answer in time")
        except ServiceError as error:
            return _report_failure(model, type(error).__name__)
        except Exception as error:
            log.exception("readiness probe failed", model=model.id)
            return ProbeResult(False, type(error).__name__)
        key = (model.id, *model.files.values(), *self._engine.precisions(model).values())
        reference = self._references.setdefault(key, pixels)
        if reference.shape != pixels.shape or np.abs(reference.astype(np.int16) - pixels).max() > TOLERANCE:
            return _report_failure(model, "another result than before")
        return ProbeResult(True)

    async def _run(self, task: str, model: Manifest) -> NDArray[Any]:
        data, _ = await asyncio.to_thread(codec.encode, probe_picture(model), codec.Output("png"))
        picture = await asyncio.to_thread(codec.decode, data, max_pixels=10**6)
        deadline = time.monotonic() + TIMEOUT_S
        context = RequestContext(f"probe#{next(self._numbers)}", "probe", deadline, probe=True)
        options, further = self._tasks[task].probe(model, picture)
        result = await self._tasks[task].run(picture, options, self._engine, context, **further)
        data, _ = await asyncio.to_thread(codec.encode, result.picture, codec.Output("png"))
        return (await asyncio.to_thread(codec.decode, data, max_pixels=10**6)).pixels


def _report_failure(model: Manifest, reason: str) -> ProbeResult:
    log.error("readiness probe failed", model=model.id, reason=reason)
    return ProbeResult(False, reason)


def probe_picture(model: Manifest) -> Picture:
    """Return a small picture of waves that `model` supports: about 48 × 48 or its fixed size, and its channels."""
    signature = next(iter(model.signatures.values()))
    channels = signature.inputs["image"].shape[-1] if "image" in signature.inputs else 3
    rule = model.geometry.size_rule
    side = 48 if rule is None else 48 + (rule.remainder - 48) % rule.modulus
    height, width = next(iter(model.geometry.valid_sizes), (side, side))
    rows, columns = np.mgrid[:height, :width]
    waves = [127.5 + 120 * np.sin(rows / (3 + band)) * np.cos(columns / (4 + band)) for band in range(channels)]
    return Picture(np.stack(waves, axis=-1).astype(np.uint8))
