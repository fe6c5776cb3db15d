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

from app.engine.costs import CostTable
from app.engine.policy import FairQueue, Waiting
from app.engine.protocol import Arrays, Counters, Ticket
from app.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServiceError, ShuttingDown

log = structlog.get_logger(__name__)

Execute = Callable[[str, str, Arrays], Arrays]  # (model id, signature, batch) -> batch
Outcome = Arrays | ServiceError

KEPT_S = 0.02
"""Seconds that the device waits for the next tiles of a picture before it takes a job's."""


@dataclass(slots=True, eq=False)
class _Held(Waiting):
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


class _Meter:
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
        lanes: int = 1,
        costs: CostTable | None = None,
        max_megapixels: float = 64.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self.costs = CostTable() if costs is None else costs
        self._max_pixels = max_megapixels * 1e6
        self._clock = clock
        self._lanes = lanes
        self._device = ThreadPoolExecutor(lanes, thread_name_prefix="device")
        self._meter = _Meter()
        self._queue: FairQueue[_Held] = FairQueue(self.costs)
        self._running: list[list[_Held]] = []
        self._requests: Counter[str] = Counter()
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

    async def submit(self, ticket: Ticket, limit: int) -> Arrays:
        """Return the ticket's outputs; it may share a batch of at most `limit`. Cancelling takes it off the queue.

        Raises Overloaded, DeadlineExceeded, ShuttingDown, and whatever ServiceError the model itself raises.
        """
        self._admit(ticket)
        loop = asyncio.get_running_loop()
        self._order += 1
        waiting = _Held(ticket, limit, self._order, loop.create_future())
        remaining = ticket.caller.deadline - self._clock()
        if remaining < float("inf"):
            waiting.timer = loop.call_later(remaining, self._expire, waiting)
        self._queue.add(waiting)
        self._requests[ticket.caller.request_id] += 1
        self._idle.clear()
        self._pump()
        try:
            return await waiting.future
        finally:
            self._leave(waiting)

    async def measure(self, ticket: Ticket, limit: int) -> None:
        """Time batches of 1, 2, 4 … copies of `ticket`, up to `limit` and for as long as larger ones may pay.

        Raises whatever ServiceError the model raises for one.
        """
        tiles, paid = 1, True
        while paid and tiles <= limit:
            for _ in range(min(tiles, 2)):  # the first call of a size also prepares the device for it
                done = await asyncio.get_running_loop().run_in_executor(
                    self._device, self._timed, [ticket] * tiles, tiles
                )
                if isinstance(done.outcomes[0], ServiceError):
                    raise done.outcomes[0]
                if done.splits:
                    return
                self._note(ticket, done)
            paid = self.costs.pays(ticket.model, ticket.signature, ticket.pixels, tiles)
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

    def _all(self) -> list[_Held]:
        return [*self._queue, *itertools.chain.from_iterable(self._running)]

    def _admit(self, ticket: Ticket) -> None:
        if self._closing:
            raise self._rejected("shutting-down", ShuttingDown("The service is shutting down."))
        if ticket.caller.deadline <= self._clock():
            raise self._rejected("deadline-exceeded", _too_late())
        caller, pixels = ticket.caller, self._queue.pixels
        if self._requests[caller.request_id] or caller.spent or caller.probe or caller.background:
            return
        if pixels and pixels + ticket.pixels > self._max_pixels:
            wait = round(max(1.0, self.seconds_ahead()), 1)
            text = f"The queue is full. Try again in {wait:g} seconds."
            raise self._rejected("overloaded", Overloaded(text, retry_after=wait))

    def _rejected(self, reason: str, error: ServiceError) -> ServiceError:
        self.counters.rejections[reason] += 1
        return error

    def _leave(self, waiting: _Held) -> None:
        """Forget a ticket, whether done, failed or cancelled."""
        if waiting.timer:
            waiting.timer.cancel()
        self._queue.remove(waiting)
        request = waiting.ticket.caller.request_id
        self._requests[request] -= 1
        if not self._requests[request]:
            del self._requests[request]
        self._rest()

    def _rest(self) -> None:
        if not self._queue and not self._running:
            self._queue.clear()
            self._idle.set()

    def _expire(self, waiting: _Held) -> None:
        if not waiting.future.done():
            self._rejected("deadline-exceeded", _fail(waiting, _too_late()))
        self._queue.remove(waiting)

    def _pump(self) -> None:
        """Give the device its next batches, where it has a lane free."""
        if len(self._running) == self._lanes:
            return
        now = self._clock()
        for waiting in [waiting for waiting in self._queue if waiting.ticket.caller.deadline <= now]:
            self._expire(waiting)
        while len(self._running) < self._lanes and (batch := self._queue.take(jobs=not self._is_kept())):
            self._running.append(batch)
            tickets, size = [waiting.ticket for waiting in batch], self._queue.size_for(batch)
            done = asyncio.get_running_loop().run_in_executor(self._device, self._timed, tickets, size)
            done.add_done_callback(partial(self._finish, batch))
        self._rest()

    def _finish(self, batch: list[_Held], future: asyncio.Future[_Done]) -> None:
        self._running.remove(batch)
        done = future.result()
        self._account(batch, done)
        for waiting, outcome in zip(batch, done.outcomes, strict=True):
            spent = waiting.ticket.caller.spent
            spent["model"] = spent.get("model", 0.0) + done.seconds / len(batch)
            if isinstance(outcome, ServiceError):
                self.counters.failures += 1
                _fail(waiting, outcome)
            elif not waiting.future.done():
                waiting.future.set_result(outcome)
        if not batch[0].ticket.caller.background:
            self._keep(batch[0].client)
        self._pump()

    def _keep(self, client: str) -> None:
        """Keep the device free of jobs for a moment, as long as `client` had less of it than they."""
        if self._kept:
            self._kept.cancel()
        self._kept_at = self._queue.had(client)
        self._kept = asyncio.get_running_loop().call_later(KEPT_S, self._let_go)

    def _let_go(self) -> None:
        self._kept = None
        self._pump()

    def _is_kept(self) -> bool:
        """Whether no job may come now: somebody who waits has the device, or had it just now, and had less of it."""
        lead = self._queue.lead()
        had = [self._queue.had(one[0].client) for one in self._running if not one[0].ticket.caller.background]
        had += [self._kept_at] if self._kept else []
        return lead is not None and any(self._queue.had(lead.client) >= theirs for theirs in had)

    def _account(self, batch: list[_Held], done: _Done) -> None:
        pixels = sum(waiting.ticket.pixels for waiting in batch)
        self.counters.tickets += len(batch)
        self.counters.batches += 1
        self.counters.pixels += pixels
        self.counters.busy_seconds += done.seconds
        self.counters.batch_sizes[len(batch)] += 1
        self._queue.settle(batch, done.seconds)
        if any(isinstance(error, Overloaded) for error in done.splits):
            self._queue.failed(batch)
        elif not done.splits and not isinstance(done.outcomes[0], ServiceError):
            self._queue.succeeded(batch)
            self._note(batch[0].ticket, done)

    def _timed(self, tickets: list[Ticket], size: int) -> _Done:
        splits: list[Exception] = []
        entered = self._meter.enter()
        try:
            outcomes = _attempt(self._execute, tickets, size, splits)
        finally:
            seconds = self._meter.leave(entered)
        return _Done(outcomes, size, seconds, splits)

    def _note(self, ticket: Ticket, done: _Done) -> None:
        self.costs.note(ticket.model, ticket.signature, ticket.pixels, done.size, done.seconds)


def _attempt(execute: Execute, tickets: list[Ticket], size: int, splits: list[Exception]) -> list[Outcome]:
    """Return one outcome a ticket, in order. A batch that fails is split in two; one ticket fails alone."""
    try:
        return list(_together(execute, tickets, size))
    except Exception as error:  # whatever a model does, the device thread goes on
        if len(tickets) > 1:
            log.warning("batch split", model=tickets[0].model, tickets=len(tickets), error=type(error).__name__)
            splits.append(error)
            middle = len(tickets) // 2
            halves = tickets[:middle], tickets[middle:]
            return [outcome for half in halves for outcome in _attempt(execute, half, len(half), splits)]
        if isinstance(error, ServiceError):
            return [error]
        log.exception("model failed", model=tickets[0].model, signature=tickets[0].signature)
        return [ModelUnavailable(f"The model {tickets[0].model} failed on this picture.", value=tickets[0].model)]


def _together(execute: Execute, tickets: list[Ticket], size: int) -> list[Arrays]:
    """Return what a batch of `size` gives for each ticket. The last is repeated to fill it, and its copies dropped."""
    first, filled = tickets[0], [*tickets, *[tickets[-1]] * (size - len(tickets))]
    if size == 1:
        inputs = first.inputs
    else:
        inputs = {name: np.concatenate([ticket.inputs[name] for ticket in filled]) for name in first.inputs}
    outputs = execute(first.model, first.signature, inputs)
    if any(array.shape[0] != size for array in outputs.values()):
        raise ModelUnavailable(f"The model {first.model} gave a wrong number of results.", value=first.model)
    return [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(len(tickets))]


def _fail(waiting: _Held, error: ServiceError) -> ServiceError:
    if not waiting.future.done():
        waiting.future.set_exception(error)
    return error


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The work was not done before its deadline and was taken off the queue.")
