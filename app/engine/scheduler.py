"""Whose tiles go to the device next. One device, one thread that calls it; everything else is on the event loop.

Deciding (`choose`) is a pure function; `Scheduler` is the thin machinery around it. Between clients the device's
work is shared by start-time fair queueing (Goyal, Vin & Cheng, 1996), in pixels over the caller's weight: of all
clients that wait, the one that had least goes next, and one that comes or returns starts level with the rest. Inside a
client the earliest deadline goes first. A batch never waits to fill: it takes what is there when the device becomes
free. Jobs take no place in a batch that is led by somebody who waits, and the device is kept free of them for a moment
after such a batch: the next tiles of the same picture are on their way, and would find it busy.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import structlog

from app.engine.protocol import Arrays, Ticket
from app.errors import DeadlineExceeded, ModelUnavailable, Overloaded, ServiceError, ShuttingDown

log = structlog.get_logger(__name__)

Execute = Callable[[str, str, Arrays], Arrays]  # (model id, signature, batch) -> batch
Outcome = Arrays | ServiceError

KEPT_S = 0.02
"""Seconds that the device waits for the next tiles of a picture before it takes a job's."""

_SMOOTHING = 0.2  # weight of the newest batch in the averaged cost


@dataclass(slots=True, eq=False)
class Waiting:
    """A ticket in the queue. Tickets of equal `key` may share a batch of up to `limit`."""

    ticket: Ticket
    limit: int
    order: int
    future: asyncio.Future[Arrays]
    timer: asyncio.TimerHandle | None = None
    key: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        shapes = tuple(sorted((name, array.shape) for name, array in self.ticket.inputs.items()))
        self.key = self.ticket.model, self.ticket.signature, shapes

    @property
    def client(self) -> str:
        return self.ticket.caller.client

    @property
    def cost(self) -> float:
        """What the ticket adds to its client's virtual time."""
        return self.ticket.pixels / self.ticket.caller.weight


@dataclass(slots=True)
class Counters:
    """What happened since the start, for metrics. `busy_seconds` is the device thread's, `pixels` were done."""

    tickets: int = 0
    failures: int = 0
    batches: int = 0
    pixels: int = 0
    busy_seconds: float = 0.0
    batch_sizes: Counter[int] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)


def choose(waiting: Sequence[Waiting], served: Mapping[str, float]) -> list[Waiting]:
    """Return the next batch: tickets of one key, at most its limit. `served` is each client's virtual time.

    The client with the least virtual time leads, and the places beside its ticket go by the same rule.
    """
    queues: dict[str, list[Waiting]] = {}
    for one in sorted(waiting, key=lambda w: (w.ticket.caller.deadline, w.order), reverse=True):
        queues.setdefault(one.client, []).append(one)  # the next to go at the end
    heads = [_rank(served.get(client, 0.0), queue[-1]) for client, queue in queues.items()]
    if not heads:
        return []
    lead = min(heads)[-1]
    first = queues[lead][-1]
    key, limit, jobs_too = first.key, first.limit, first.ticket.caller.background
    queues = {
        client: [w for w in queue if w.key == key and (jobs_too or not w.ticket.caller.background)]
        for client, queue in queues.items()
    }
    heads = [_rank(served.get(client, 0.0), queue[-1]) for client, queue in queues.items() if queue]
    heapq.heapify(heads)
    batch: list[Waiting] = []
    while heads and len(batch) < limit:
        time, *_, client = heapq.heappop(heads)
        batch.append(queues[client].pop())
        if queues[client]:
            heapq.heappush(heads, _rank(time + batch[-1].cost, queues[client][-1]))
    return batch


def _rank(time: float, waiting: Waiting) -> tuple[float, float, int, str]:
    return time, waiting.ticket.caller.deadline, waiting.order, waiting.client


class Scheduler:
    """Runs tickets on one device through `execute`, which is called on one thread of the scheduler's own.

    At most `max_tickets` tickets and `max_megapixels` wait; what would be more is Overloaded, except for a probe, for a
    job (few run at once) and for a request that has tickets here already: it is not refused half-way (its task bounds
    how many it sends at once).
    Call everything but `execute` on one event loop.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        max_tickets: int = 256,
        max_megapixels: float = 64.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._execute = execute
        self._max_tickets = max_tickets
        self._max_pixels = max_megapixels * 1e6
        self._clock = clock
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._waiting: list[Waiting] = []
        self._running: list[Waiting] = []
        self._requests: Counter[str] = Counter()
        self._served: dict[str, float] = {}
        self._virtual = 0.0
        self._costs: dict[tuple[str, str], float] = {}
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
        return len(self._waiting)

    @property
    def megapixels(self) -> float:
        """Megapixels that wait."""
        return sum(w.ticket.pixels for w in self._waiting) / 1e6

    @property
    def busy(self) -> bool:
        """Whether the device is at work."""
        return bool(self._running)

    def seconds_ahead(self) -> float:
        """Return the estimated seconds of work that wait or run, from the averaged cost of each model's pixels."""
        known = self._costs.values()
        unknown = sum(known) / len(known) if known else 1e-6
        return sum(
            w.ticket.pixels * self._costs.get((w.ticket.model, w.ticket.signature), unknown)
            for w in (*self._waiting, *self._running)
        )

    async def submit(self, ticket: Ticket, limit: int) -> Arrays:
        """Return the ticket's outputs; it may share a batch of at most `limit`. Cancelling takes it off the queue.

        Raises Overloaded, DeadlineExceeded, ShuttingDown, and whatever ServiceError the model itself raises.
        """
        self._admit(ticket)
        loop = asyncio.get_running_loop()
        self._order += 1
        waiting = Waiting(ticket, limit, self._order, loop.create_future())
        remaining = ticket.caller.deadline - self._clock()
        if remaining < float("inf"):
            waiting.timer = loop.call_later(remaining, self._expire, waiting)
        if not any(w.client == waiting.client for w in self._waiting):
            self._served[waiting.client] = max(self._served.get(waiting.client, 0.0), self._virtual)
        self._waiting.append(waiting)
        self._requests[ticket.caller.request_id] += 1
        self._idle.clear()
        self._pump()
        try:
            return await waiting.future
        finally:
            self._leave(waiting)

    async def close(self, limit: float) -> None:
        """Refuse new tickets, give those here `limit` seconds to be done, then end the rest with ShuttingDown."""
        self._closing = True
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            for waiting in (*self._waiting, *self._running):
                _fail(waiting, ShuttingDown("The service is shutting down."))
            self._waiting.clear()
        self._device.shutdown(wait=False, cancel_futures=True)

    def _admit(self, ticket: Ticket) -> None:
        if self._closing:
            raise self._rejected("shutting-down", ShuttingDown("The service is shutting down."))
        if ticket.caller.deadline <= self._clock():
            raise self._rejected("deadline-exceeded", _too_late())
        caller = ticket.caller
        if self._requests[caller.request_id] or caller.probe or caller.background:
            return
        pixels = sum(w.ticket.pixels for w in self._waiting)
        too_many = len(self._waiting) >= self._max_tickets
        if too_many or (pixels and pixels + ticket.pixels > self._max_pixels):
            wait = round(max(1.0, self.seconds_ahead()), 1)
            text = f"The queue is full. Try again in {wait:g} seconds."
            raise self._rejected("overloaded", Overloaded(text, retry_after=wait))

    def _rejected(self, reason: str, error: ServiceError) -> ServiceError:
        self.counters.rejections[reason] += 1
        return error

    def _leave(self, waiting: Waiting) -> None:
        """Forget a ticket, whether done, failed or cancelled."""
        if waiting.timer:
            waiting.timer.cancel()
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        request = waiting.ticket.caller.request_id
        self._requests[request] -= 1
        if not self._requests[request]:
            del self._requests[request]
        self._rest()

    def _rest(self) -> None:
        if not self._waiting and not self._running:
            self._served.clear()
            self._virtual = 0.0
            self._idle.set()

    def _expire(self, waiting: Waiting) -> None:
        if not waiting.future.done():
            self._rejected("deadline-exceeded", _fail(waiting, _too_late()))
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    def _pump(self) -> None:
        """Give the device its next batch if it is free."""
        if self._running:
            return
        now = self._clock()
        for waiting in [w for w in self._waiting if w.ticket.caller.deadline <= now]:
            self._expire(waiting)
        self._waiting = [w for w in self._waiting if not w.future.done()]
        batch = choose(self._waiting, self._served)
        if not batch:
            self._rest()
            return
        if self._is_kept_from(batch[0]):
            return
        self._virtual = self._served.get(batch[0].client, 0.0)
        for waiting in batch:
            self._served[waiting.client] = self._served.get(waiting.client, 0.0) + waiting.cost
            self._waiting.remove(waiting)
        present = {w.client for w in self._waiting}
        self._served = {
            client: time for client, time in self._served.items() if client in present or time > self._virtual
        }
        self._running = batch
        tickets = [w.ticket for w in batch]
        done = asyncio.get_running_loop().run_in_executor(self._device, _timed, self._execute, tickets)
        done.add_done_callback(self._finish)

    def _finish(self, done: asyncio.Future[tuple[list[Outcome], float]]) -> None:
        batch, self._running = self._running, []
        outcomes, seconds = done.result()
        self._account(batch, seconds)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            spent = waiting.ticket.caller.spent
            spent["model"] = spent.get("model", 0.0) + seconds / len(batch)
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
        self._kept_at = self._served.get(client, 0.0)
        self._kept = asyncio.get_running_loop().call_later(KEPT_S, self._let_go)

    def _let_go(self) -> None:
        self._kept = None
        self._pump()

    def _is_kept_from(self, lead: Waiting) -> bool:
        jobs_had_more = self._served.get(lead.client, 0.0) >= self._kept_at
        return self._kept is not None and lead.ticket.caller.background and jobs_had_more

    def _account(self, batch: list[Waiting], seconds: float) -> None:
        pixels = sum(w.ticket.pixels for w in batch)
        self.counters.tickets += len(batch)
        self.counters.batches += 1
        self.counters.pixels += pixels
        self.counters.busy_seconds += seconds
        self.counters.batch_sizes[len(batch)] += 1
        key = batch[0].ticket.model, batch[0].ticket.signature
        cost = seconds / max(1, pixels)
        self._costs[key] = cost + (1 - _SMOOTHING) * (self._costs.get(key, cost) - cost)


def _timed(execute: Execute, tickets: list[Ticket]) -> tuple[list[Outcome], float]:
    start = time.perf_counter()
    return _attempt(execute, tickets), time.perf_counter() - start


def _attempt(execute: Execute, tickets: list[Ticket]) -> list[Outcome]:
    """Return one outcome a ticket, in order. A batch that fails is split in two; one ticket fails alone."""
    try:
        return _together(execute, tickets)
    except Exception as error:  # whatever a model does, the device thread goes on
        if len(tickets) > 1:
            log.warning("batch split", model=tickets[0].model, tickets=len(tickets), error=type(error).__name__)
            middle = len(tickets) // 2
            return _attempt(execute, tickets[:middle]) + _attempt(execute, tickets[middle:])
        if isinstance(error, ServiceError):
            return [error]
        log.exception("model failed", model=tickets[0].model, signature=tickets[0].signature)
        return [ModelUnavailable(f"The model {tickets[0].model} failed on this picture.", value=tickets[0].model)]


def _together(execute: Execute, tickets: list[Ticket]) -> list[Outcome]:
    first = tickets[0]
    if len(tickets) == 1:
        inputs = first.inputs
    else:
        inputs = {name: np.concatenate([ticket.inputs[name] for ticket in tickets]) for name in first.inputs}
    outputs = execute(first.model, first.signature, inputs)
    if any(array.shape[0] != len(tickets) for array in outputs.values()):
        raise ModelUnavailable(f"The model {first.model} gave a wrong number of results.", value=first.model)
    return [{name: array[i : i + 1] for name, array in outputs.items()} for i in range(len(tickets))]


def _fail(waiting: Waiting, error: ServiceError) -> ServiceError:
    if not waiting.future.done():
        waiting.future.set_exception(error)
    return error


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("The work was not done before its deadline and was taken off the queue.")
