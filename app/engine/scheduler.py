"""Runs batches on one device, each on a thread; everything else is on the event loop.

`fair_queue.FairQueue` chooses the next batch; this module runs it. The device is never idle while an interactive
request waits. While it runs an interactive batch, and for INTERACTIVE_HOLD_S after, it starts no job of a client that
has had more of it: the next tiles of the same picture are on their way, and would find it busy.

Of batches that take longer than LONG_BATCH_S, one runs at a time, and always leaves room for a shorter one beside it:
a small request shares the device with a large tile, and does not wait for its end.

A second of a device that runs several batches at once is divided among them (start-time fair queueing with depth: Jin,
Chase & Kaur, 2004), so that what they took adds up to the time that it was busy.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from app.engine.admission_queue import AdmissionQueue, shutting_down, too_late
from app.engine.fair_queue import FairQueue, QueuedRequest
from app.engine.latency_model import LatencyModel
from app.engine.protocol import Arrays, Counters, InferenceRequest
from app.errors import ModelUnavailable, Overloaded, ServiceError

log = structlog.get_logger(__name__)

Execute = Callable[[str, str, Arrays], Arrays]  # (model id, signature, batch) -> batch
Outcome = Arrays | ServiceError

INTERACTIVE_HOLD_S = 0.02
"""Seconds for which the device waits for the next tiles of a picture before it starts a job's."""
LONG_BATCH_S = 0.6
"""A batch that takes longer is a long one."""


@dataclass(slots=True, eq=False)
class _PendingRequest(QueuedRequest):
    """A queued request and the future of its outputs."""

    future: asyncio.Future[Arrays]
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class _BatchResult:
    """The outcome of each request of a batch, in order. The device was given `size` tiles and took `seconds`; `splits`
    are the errors for which the batch was split."""

    outcomes: list[Outcome]
    size: int
    seconds: float
    splits: list[Exception]


class DeviceClock:
    """Measures the seconds of a device that several threads share: each second is divided among those that use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._changed_at = 0.0
        self._seconds_per_user = 0.0

    def enter(self) -> float:
        """Begin to use the device; return the value to pass to `leave`."""
        return self._change_users(+1)

    def leave(self, entered: float) -> float:
        """Stop using the device; return this user's share of its seconds."""
        return self._change_users(-1) - entered

    def _change_users(self, change: int) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._users:
                self._seconds_per_user += (now - self._changed_at) / self._users
            self._changed_at, self._users = now, self._users + change
            return self._seconds_per_user


class Scheduler:
    """Runs requests on one device through `execute`, which is called on `max_concurrent_batches` threads of its own,
    or on one more beside a long batch.

    `AdmissionQueue` says which requests are refused when more than `max_megapixels` wait. Call everything but `execute`
    on one event loop.
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
        self._admission = AdmissionQueue(max_megapixels, clock=clock)
        self._clock = clock
        self._max_concurrent_batches = max_concurrent_batches
        self._device = ThreadPoolExecutor(max_concurrent_batches, thread_name_prefix="device")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="device-beside")
        self._device_clock = DeviceClock()
        self._queue: FairQueue[_PendingRequest] = FairQueue(self.latency)
        self._running: list[list[_PendingRequest]] = []
        self._order = 0
        self._hold_timer: asyncio.TimerHandle | None = None
        self._hold_virtual_time = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self.counters = Counters(rejections=self._admission.rejections)

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def megapixels(self) -> float:
        """Megapixels that wait."""
        return self._queue.pixels / 1e6

    @property
    def oldest_seconds(self) -> float:
        """Seconds since the oldest request that waits or runs came; 0 where there is none."""
        return self._admission.oldest_seconds

    @property
    def busy(self) -> bool:
        """Whether the device is at work."""
        return bool(self._running)

    def seconds_ahead(self) -> float:
        """Return the estimated seconds of work that wait or run."""
        return sum(self._queue.seconds(pending) for pending in self._all_requests())

    async def submit(self, request: InferenceRequest, limit: int) -> Arrays:
        """Return the outputs of `request`, which may share a batch of at most `limit`. Cancelling takes it off the
        queue.

        Raises Overloaded, DeadlineExceeded, ShuttingDown, and whatever ServiceError the model itself raises.
        """
        self._admission.enter(request, waiting_pixels=self._queue.pixels, seconds_ahead=self.seconds_ahead)
        loop = asyncio.get_running_loop()
        self._order += 1
        pending = _PendingRequest(request, limit, self._order, loop.create_future())
        remaining = request.context.deadline - self._clock()
        if remaining < float("inf"):
            pending.timer = loop.call_later(remaining, self._expire, pending)
        self._queue.add(pending)
        self._idle.clear()
        self._start_batches()
        try:
            return await pending.future
        finally:
            self._remove(pending)

    async def measure(self, request: InferenceRequest, limit: int) -> None:
        """Time batches of 1, 2, 4 … copies of `request`, up to `limit` and for as long as larger ones may pay.

        Raises whatever ServiceError the model raises for one.
        """
        tiles, paid = 1, True
        while paid and tiles <= limit:
            for _ in range(min(tiles, 2)):  # the first call of a size also prepares the device for it
                result = await asyncio.get_running_loop().run_in_executor(
                    self._device, self._run_timed, [request] * tiles, tiles
                )
                if isinstance(result.outcomes[0], ServiceError):
                    raise result.outcomes[0]
                if result.splits:
                    return
                self._record_latency(request, result)
            paid = self.latency.larger_batch_pays(request.model, request.signature, request.pixels, tiles)
            tiles *= 2

    async def close(self, limit: float) -> None:
        """Refuse new requests, give those admitted `limit` seconds, then end the rest with ShuttingDown."""
        self._admission.closing = True
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            for pending in self._all_requests():
                _fail(pending, shutting_down())
            self._queue.clear()
        for threads in (self._device, self._beside):
            threads.shutdown(wait=False, cancel_futures=True)

    def _all_requests(self) -> list[_PendingRequest]:
        return [*self._queue, *itertools.chain.from_iterable(self._running)]

    def _remove(self, pending: _PendingRequest) -> None:
        """Remove a request, whether done, failed or cancelled."""
        if pending.timer:
            pending.timer.cancel()
        self._queue.remove(pending)
        self._admission.leave(pending.request)
        self._reset_if_idle()

    def _reset_if_idle(self) -> None:
        if not self._queue and not self._running:
            self._queue.clear()
            self._idle.set()

    def _expire(self, pending: _PendingRequest) -> None:
        if not pending.future.done():
            self._admission.reject("deadline-exceeded", _fail(pending, too_late()))
        self._queue.remove(pending)

    def _start_batches(self) -> None:
        """Give the device its next batches, as many as it may run at once."""
        if not self._has_room():
            return
        now = self._clock()
        for pending in [pending for pending in self._queue if pending.request.context.deadline <= now]:
            self._expire(pending)
        while self._has_room() and (
            batch := self._queue.take(jobs=not self._must_jobs_wait(), most_seconds=self._most_seconds())
        ):
            threads = self._device if len(self._running) < self._max_concurrent_batches else self._beside
            self._running.append(batch)
            requests, size = [pending.request for pending in batch], self._queue.size_for(batch)
            future = asyncio.get_running_loop().run_in_executor(threads, self._run_timed, requests, size)
            future.add_done_callback(partial(self._finish, batch))
        self._reset_if_idle()

    def _finish(self, batch: list[_PendingRequest], future: asyncio.Future[_BatchResult]) -> None:
        self._running.remove(batch)
        result = future.result()
        self._record_batch(batch, result)
        for pending, outcome in zip(batch, result.outcomes, strict=True):
            pending.request.context.usage.device_seconds += result.seconds / len(batch)
            if isinstance(outcome, ServiceError):
                self.counters.failures += 1
                _fail(pending, outcome)
            elif not pending.future.done():
                pending.future.set_result(outcome)
        if not batch[0].request.context.background:
            self._hold_for(batch[0].client)
        self._start_batches()

    def _hold_for(self, client: str) -> None:
        """Start no job of a client that has had more of the device than `client`, for INTERACTIVE_HOLD_S."""
        if self._hold_timer:
            self._hold_timer.cancel()
        self._hold_virtual_time = self._queue.virtual_time(client)
        self._hold_timer = asyncio.get_running_loop().call_later(INTERACTIVE_HOLD_S, self._end_hold)

    def _end_hold(self) -> None:
        self._hold_timer = None
        self._start_batches()

    def _has_room(self) -> bool:
        most = self._max_concurrent_batches
        return len(self._running) < (max(most, 2) if self._runs_long_batch() else most)

    def _most_seconds(self) -> float:
        """Return how long the next batch may take."""
        return LONG_BATCH_S if self._runs_long_batch() else math.inf

    def _runs_long_batch(self) -> bool:
        return any(sum(pending.charged for pending in batch) > LONG_BATCH_S for batch in self._running)

    def _must_jobs_wait(self) -> bool:
        """Whether an interactive client runs a batch, or ran one just now, and has had less of the device than the
        client whose turn it is."""
        next_request = self._queue.next_request(most_seconds=self._most_seconds())
        if next_request is None:
            return False
        interactive = [batch[0].client for batch in self._running if not batch[0].request.context.background]
        times = [self._queue.virtual_time(client) for client in interactive]
        times += [self._hold_virtual_time] if self._hold_timer else []
        return any(self._queue.virtual_time(next_request.client) >= time for time in times)

    def _record_batch(self, batch: list[_PendingRequest], result: _BatchResult) -> None:
        self.counters.requests += len(batch)
        self.counters.batches += 1
        self.counters.pixels += sum(pending.request.pixels for pending in batch)
        self.counters.busy_seconds += result.seconds
        self.counters.batch_sizes[len(batch)] += 1
        self._queue.charge(batch, result.seconds)
        if any(isinstance(error, Overloaded) for error in result.splits):
            self._queue.record_failure(batch)
        elif not result.splits and not isinstance(result.outcomes[0], ServiceError):
            self._queue.record_success(batch)
            self._record_latency(batch[0].request, result)

    def _run_timed(self, requests: list[InferenceRequest], size: int) -> _BatchResult:
        splits: list[Exception] = []
        entered = self._device_clock.enter()
        try:
            outcomes = _attempt(self._execute, requests, size, splits)
        finally:
            seconds = self._device_clock.leave(entered)
        return _BatchResult(outcomes, size, seconds, splits)

    def _record_latency(self, request: InferenceRequest, result: _BatchResult) -> None:
        self.latency.record(request.model, request.signature, request.pixels, result.size, result.seconds)


def _attempt(execute: Execute, requests: list[InferenceRequest], size: int, splits: list[Exception]) -> list[Outcome]:
    """Return one outcome per request, in order. A batch that fails is split in two; one request fails alone."""
    try:
        return list(_run_batch(execute, requests, size))
    except Exception as error:  # whatever a model does, the device thread goes on
        if len(requests) > 1:
            log.warning(
                "batch failed and was split",
                model=requests[0].model,
                requests=len(requests),
                error=type(error).__name__,
            )
            splits.append(error)
            middle = len(requests) // 2
            halves = requests[:middle], requests[middle:]
            return [outcome for half in halves for outcome in _attempt(execute, half, len(half), splits)]
        if isinstance(error, ServiceError):
            return [error]
        log.exception("model failed", model=requests[0].model, signature=requests[0].signature)
        return [ModelUnavailable(f"The model {requests[0].model} failed on this picture.", value=requests[0].model)]


def _run_batch(execute: Execute, requests: list[InferenceRequest], size: int) -> list[Arrays]:
    """Return the outputs of each request of a batch, which copies of the last fill up to `size` tiles."""
    first, filled = requests[0], [*requests, *[requests[-1]] * (size - len(requests))]
    if size == 1:
        inputs = first.inputs
    else:
        inputs = {name: np.concatenate([request.inputs[name] for request in filled]) for name in first.inputs}
    outputs = execute(first.model, first.signature, inputs)
    if any(array.shape[0] != size for array in outputs.values()):
        raise ModelUnavailable(f"The model {first.model} returned a wrong number of results.", value=first.model)
    return [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(len(requests))]


def _fail(pending: _PendingRequest, error: ServiceError) -> ServiceError:
    if not pending.future.done():
        pending.future.set_exception(error)
    return error
