"""One device and a thread for each batch that it does at once; everything else is on the event loop.

Whose turn it is says `policy.FairQueue`; this is the machinery around it. The device is never idle while somebody
waits. It is kept free of jobs while it does a batch of somebody who waits and for a moment after: the next tiles of the
same picture are on their way, and would find it busy.

A second of a device that does several batches at once is divided among them (start-time fair queueing with depth: Jin,
Chase & Kaur, 2004), so that what they took adds up to the time that it was busy.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from app.engine.fair_queue import FairQueue, QueuedRequest
from app.engine.latency_model import LatencyModel
from app.engine.protocol import Arrays, Counters, InferenceRequest
from app.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServiceError, ShuttingDown

log = structlog.get_logger(__name__)

Execute = Callable[[str, str, Arrays], Arrays]  # (model id, signature, batch) -> batch
Outcome = Arrays | ServiceError

INTERACTIVE_HOLD_S = 0.02
"""Seconds that the device waits for the next tiles of a picture before it takes a job's."""


@dataclass(slots=True, eq=False)
class _PendingRequest(QueuedRequest):
    """A ticket that somebody awaits."""

    future: asyncio.Future[Arrays]
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of a batch that was given to the device as `size` tiles: an outcome a ticket, in order, and for what
    it had to be split."""

    outcomes: list[Outcome]
    size: int
    seconds: float
    splits: list[Exception]


class DeviceClock:
    """Tells seconds of a device that several threads share: each second counts for them all together once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sharing = 0
        self._then = 0.0
        self._each = 0.0

    def enter(self) -> float:
        """Begin to share the device; return what `leave` needs to be told."""
        return self._turn(+1)

    def leave(self, entered: float) -> float:
        """Share it no longer; return the seconds of it that were had."""
        return self._turn(-1) - entered

    def _turn(self, change: int) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._sharing:
                self._each += (now - self._then) / self._sharing
            self._then, self._sharing = now, self._sharing + change
            return self._each


class Scheduler:
    """Runs tickets on one device through `execute`, which is called on `lanes` threads of the scheduler's own.

    At most `max_megapixels` wait; what would be more is Overloaded, except for a probe, for a job (few run at once) and
    for a request that has tickets here or had some done: it is not refused half-way (its task bounds how many it sends
    at once).
    Call everything but `execute` on one event loop.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        max_concurrent_batches: int = 1,
        latency: LatencyModel | None = None,
        max_megapixels: float = 64.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self.latency = LatencyModel() if latency is None else latency
        self._max_pixels = max_megapixels * 1e6
        self._clock = clock
        self._max_concurrent_batches = max_concurrent_batches
        self._device = ThreadPoolExecutor(max_concurrent_batches, thread_name_prefix="device")
        self._clock_of_device = DeviceClock()
        self._queue: FairQueue[_PendingRequest] = FairQueue(self.latency)
        self._running: list[list[_PendingRequest]] = []
        self._tiles_by_request: Counter[str] = Counter()
        self._order = 0
        self._kept: asyncio.TimerHandle | None = None
        self._kept_at = 0.0
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.counters = Counters()

    @property
    def depth(self) -> int:
        """Tickets that wait."""
        return len(self._queue)

    @property
    def megapixels(self) -> float:
        """Megapixels that wait."""
        return self._queue.pixels / 1e6

    @property
    def busy(self) -> bool:
        """Whether the device is at work."""
        return bool(self._running)

    def seconds_ahead(self) -> float:
        """Return the estimated seconds of work that wait or run."""
        return sum(self._queue.seconds(waiting) for waiting in self._all())

    async def submit(self, request: InferenceRequest, limit: int) -> Arrays:
        """Return the ticket's outputs; it may share a batch of at most `limit`. Cancelling takes it off the queue.

        Raises Overloaded, DeadlineExceeded, ShuttingDown, and whatever ServiceError the model itself raises.
        """
        self._admit(request)
        loop = asyncio.get_running_loop()
        self._order += 1
        waiting = _PendingRequest(request, limit, self._order, loop.create_future())
        remaining = request.context.deadline - self._clock()
        if remaining < float("inf"):
            waiting.timer = loop.call_later(remaining, self._expire, waiting)
        self._queue.add(waiting)
        self._tiles_by_request[request.context.request_id] += 1
        self._idle.clear()
        self._pump()
        try:
            return await waiting.future
        finally:
            self._leave(waiting)

    async def measure(self, request: InferenceRequest, limit: int) -> None:
        """Time batches of 1, 2, 4 … copies of `ticket`, up to `limit` and for as long as larger ones may pay.

        Raises whatever ServiceError the model raises for one.
        """
        tiles, paid = 1, True
        while paid and tiles <= limit:
            for _ in range(min(tiles, 2)):  # the first call of a size also prepares the device for it
                done = await asyncio.get_running_loop().run_in_executor(
                    self._device, self._timed, [request] * tiles, tiles
                )
                if isinstance(done.outcomes[0], ServiceError):
                    raise done.outcomes[0]
                if done.splits:
                    return
                self._note(request, done)
            paid = self.latency.larger_batch_pays(request.model, request.signature, request.pixels, tiles)
            tiles *= 2

    async def close(self, limit: float) -> None:
        """Refuse new tickets, give those here `limit` seconds to be done, then end the rest with ShuttingDown."""
        self._closing = True
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            for waiting in self._all():
                _fail(waiting, ShuttingDown("The service is shutting down."))
            self._queue.clear()
        self._device.shutdown(wait=False, cancel_futures=True)

    def _all(self) -> list[_PendingRequest]:
        return [*self._queue, *itertools.chain.from_iterable(self._running)]

    def _admit(self, request: InferenceRequest) -> None:
        if self._closing:
            raise self._rejected("shutting-down", ShuttingDown("The service is shutting down."))
        if request.context.deadline <= self._clock():
            raise self._rejected("deadline-exceeded", _too_late())
        context, pixels = request.context, self._queue.pixels
        if self._tiles_by_request[context.request_id] or context.device_seconds or context.probe or context.background:
            return
        if pixels and pixels + request.pixels > self._max_pixels:
            wait = round(max(1.0, self.seconds_ahead()), 1)
            text = f"The queue is full. Try again in {wait:g} seconds."
            raise self._rejected("overloaded", Overloaded(text, retry_after=wait))

    def _rejected(self, reason: str, error: ServiceError) -> ServiceError:
        self.counters.rejections[reason] += 1
        return error

    def _leave(self, waiting: _PendingRequest) -> None:
        """Forget a ticket, whether done, failed or cancelled."""
        if waiting.timer:
            waiting.timer.cancel()
        self._queue.remove(waiting)
        request_id = waiting.request.context.request_id
        self._tiles_by_request[request_id] -= 1
        if not self._tiles_by_request[request_id]:
            del self._tiles_by_request[request_id]
        self._rest()

    def _rest(self) -> None:
        if not self._queue and not self._running:
            self._queue.clear()
            self._idle.set()

    def _expire(self, waiting: _PendingRequest) -> None:
        if not waiting.future.done():
            self._rejected("deadline-exceeded", _fail(waiting, _too_late()))
        self._queue.remove(waiting)

    def _pump(self) -> None:
        """Give the device its next batches, where it has a lane free."""
        if len(self._running) == self._max_concurrent_batches:
            return
        now = self._clock()
        for waiting in [waiting for waiting in self._queue if waiting.request.context.deadline <= now]:
            self._expire(waiting)
        while len(self._running) < self._max_concurrent_batches and (
            batch := self._queue.take(jobs=not self._is_kept())
        ):
            self._running.append(batch)
            requests, size = [waiting.request for waiting in batch], self._queue.size_for(batch)
            done = asyncio.get_running_loop().run_in_executor(self._device, self._timed, requests, size)
            done.add_done_callback(partial(self._finish, batch))
        self._rest()

    def _finish(self, batch: list[_PendingRequest], future: asyncio.Future[_Done]) -> None:
        self._running.remove(batch)
        done = future.result()
        self._account(batch, done)
        for waiting, outcome in zip(batch, done.outcomes, strict=True):
            device_seconds = waiting.request.context.device_seconds
            device_seconds["model"] = device_seconds.get("model", 0.0) + done.seconds / len(batch)
            if isinstance(outcome, ServiceError):
                self.counters.failures += 1
                _fail(waiting, outcome)
            elif not waiting.future.done():
                waiting.future.set_result(outcome)
        if not batch[0].request.context.background:
            self._keep(batch[0].client)
        self._pump()

    def _keep(self, client: str) -> None:
        """Keep the device free of jobs for a moment, as long as `client` had less of it than they."""
        if self._kept:
            self._kept.cancel()
        self._kept_at = self._queue.had(client)
        self._kept = asyncio.get_running_loop().call_later(INTERACTIVE_HOLD_S, self._let_go)

    def _let_go(self) -> None:
        self._kept = None
        self._pump()

    def _is_kept(self) -> bool:
        """Whether no job may come now: somebody who waits has the device, or had it just now, and had less of it."""
        next_request = self._queue.next_request()
        had = [self._queue.had(one[0].client) for one in self._running if not one[0].request.context.background]
        had += [self._kept_at] if self._kept else []
        return next_request is not None and any(self._queue.had(next_request.client) >= theirs for theirs in had)

    def _account(self, batch: list[_PendingRequest], done: _Done) -> None:
        pixels = sum(waiting.request.pixels for waiting in batch)
        self.counters.requests += len(batch)
        self.counters.batches += 1
        self.counters.pixels += pixels
        self.counters.busy_seconds += done.seconds
        self.counters.batch_sizes[len(batch)] += 1
        self._queue.settle(batch, done.seconds)
        if any(isinstance(error, Overloaded) for error in done.splits):
            self._queue.failed(batch)
        elif not done.splits and not isinstance(done.outcomes[0], ServiceError):
            self._queue.succeeded(batch)
            self._note(batch[0].request, done)

    def _timed(self, requests: list[InferenceRequest], size: int) -> _Done:
        splits: list[Exception] = []
        entered = self._clock_of_device.enter()
        try:
            outcomes = _attempt(self._execute, requests, size, splits)
        finally:
            seconds = self._clock_of_device.leave(entered)
        return _Done(outcomes, size, seconds, splits)

    def _note(self, request: InferenceRequest, done: _Done) -> None:
        self.latency.record(request.model, request.signature, request.pixels, done.size, done.seconds)


def _attempt(execute: Execute, requests: list[InferenceRequest], size: int, splits: list[Exception]) -> list[Outcome]:
    """Return one outcome a ticket, in order. A batch that fails is split in two; one ticket fails alone."""
    try:
        return list(_together(execute, requests, size))
    except Exception as error:  # whatever a model does, the device thread goes on
        if len(requests) > 1:
            log.warning("batch split", model=requests[0].model, requests=len(requests), error=type(error).__name__)
            splits.append(error)
            middle = len(requests) // 2
            halves = requests[:middle], requests[middle:]
            return [outcome for half in halves for outcome in _attempt(execute, half, len(half), splits)]
        if isinstance(error, ServiceError):
            return [error]
        log.exception("model failed", model=requests[0].model, signature=requests[0].signature)
        return [ModelUnavailable(f"The model {requests[0].model} failed on this picture.", value=requests[0].model)]


def _together(execute: Execute, requests: list[InferenceRequest], size: int) -> list[Arrays]:
    """Return what a batch of `size` gives for each ticket. The last is repeated to fill it, and its copies dropped."""
    first, filled = requests[0], [*requests, *[requests[-1]] * (size - len(requests))]
    if size == 1:
        inputs = first.inputs
    else:
        inputs = {name: np.concatenate([request.inputs[name] for request in filled]) for name in first.inputs}
    outputs = execute(first.model, first.signature, inputs)
    if any(array.shape[0] != size for array in outputs.values()):
        raise ModelUnavailable(f"The model {first.model} gave a wrong number of results.", value=first.model)
    return [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(len(requests))]


def _fail(waiting: _PendingRequest, error: ServiceError) -> ServiceError:
    if not waiting.future.done():
        waiting.future.set_exception(error)
    return error


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The work was not done before its deadline and was taken off the queue.")
