"""Whether the service works: a small picture goes the whole way, through each task's default model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.engine.protocol import ModelServer, RequestContext
from app.errors import DeadlineExceeded, ServiceError, UnknownModel
from app.imaging import codec
from app.imaging.picture import Picture
from app.tasks.answer import Answer
from models.manifest import Manifest

log = structlog.get_logger("restore.golden")

Work = Callable[[Manifest, Picture, RequestContext], Awaitable[Answer]]

FRESH_S = 5.0
"""Seconds for which a verdict holds once it is there, however often it is asked for."""

PATIENCE_S = 15.0
"""Seconds that a golden picture may take."""

TOLERANCE = 2
"""How far a pixel of 0..255 may be from what the first golden picture gave: the device adds in any order."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a task is ready, and why not, in a word or two for the one who runs the service."""

    ready: bool
    reason: str = ""


class Golden:
    """Sends a golden picture through `tasks` {task: how to do it with a model} and remembers how that went."""

    def __init__(
        self, engine: ModelServer, tasks: Mapping[str, Work], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._clock = clock
        self._numbers = itertools.count(1)
        self._last: dict[str, Verdict] = {}
        self._judged: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._first: dict[tuple[str, ...], NDArray[Any]] = {}  # by the model's id and digests
        self.warming = True
        """Models are being loaded at start: one that is not there yet is not asked for here. Set it to False then."""

    async def check(self) -> dict[str, Verdict]:
        """Return the verdict on each task that has models; no older than FRESH_S. Many may ask at once."""
        async with self._lock:
            served = {entry.id.partition("/")[0] for entry in self._engine.statuses()}
            tasks = [task for task in self._tasks if task in served]
            if not self._engine.worker_count:
                self._judged.clear()  # a result from before does not hold when the workers are back
                return dict.fromkeys(tasks, Verdict(False, "no worker"))
            stale = [task for task in tasks if self._clock() - self._judged.get(task, -float("inf")) > FRESH_S]
            verdicts = await asyncio.gather(*(self._judge(task) for task in stale))
            known = {task: self._last[task] for task in tasks if task not in stale}
            return known | dict(zip(stale, verdicts, strict=True))

    async def _judge(self, task: str) -> Verdict:
        try:
            model = self._engine.find(task)
        except UnknownModel:
            return Verdict(False, "no default model")
        except ServiceError as error:
            return Verdict(False, type(error).__name__)
        if self.warming and not self._is_loaded(model):
            return Verdict(False, "loading")
        verdict = await self._tried(task, model)
        self._last[task], self._judged[task] = verdict, self._clock()
        return verdict

    def _is_loaded(self, model: Manifest) -> bool:
        return any(entry.id == model.id and entry.state == "loaded" for entry in self._engine.statuses())

    async def _tried(self, task: str, model: Manifest) -> Verdict:
        try:
            async with asyncio.timeout(PATIENCE_S):
                result = await self._send(task, model)
        except (TimeoutError, DeadlineExceeded):
            return self._failed(model, "no answer in time")
        except ServiceError as error:
            return self._failed(model, type(error).__name__)
        except Exception as error:
            log.exception("golden picture failed", model=model.id)
            return Verdict(False, type(error).__name__)
        first = self._first.setdefault((model.id, *model.files.values()), result)
        if first.shape != result.shape or np.abs(first.astype(np.int16) - result).max() > TOLERANCE:
            return self._failed(model, "another result than before")
        return Verdict(True)

    def _failed(self, model: Manifest, reason: str) -> Verdict:
        log.error("golden picture failed", model=model.id, reason=reason)
        return Verdict(False, reason)

    async def _send(self, task: str, model: Manifest) -> NDArray[Any]:
        data, _ = await asyncio.to_thread(codec.encode, picture(model), codec.Output("png"))
        decoded = await asyncio.to_thread(codec.decode, data, max_pixels=10**6)
        deadline = time.monotonic() + PATIENCE_S
        context = RequestContext(f"golden#{next(self._numbers)}", "golden", deadline, probe=True)
        answer = await self._tasks[task](model, decoded, context)
        data, _ = await asyncio.to_thread(codec.encode, answer.picture, codec.Output("png"))
        result = await asyncio.to_thread(codec.decode, data, max_pixels=10**6)
        return result.pixels


def picture(model: Manifest) -> Picture:
    """Return a small picture that `model` takes: waves, about 48 x 48 or its own size, grey where it takes grey."""
    signature = next(iter(model.signatures.values()))
    channels = signature.inputs["image"].shape[-1] if "image" in signature.inputs else 3
    rule = model.geometry.size_rule
    side = 48 if rule is None else 48 + (rule.remainder - 48) % rule.modulus
    height, width = next(iter(model.geometry.valid_sizes), (side, side))
    rows, columns = np.mgrid[:height, :width]
    waves = [127.5 + 120 * np.sin(rows / (3 + band)) * np.cos(columns / (4 + band)) for band in range(channels)]
    return Picture(np.stack(waves, axis=-1).astype(np.uint8))
