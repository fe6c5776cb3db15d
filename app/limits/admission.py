"""Admission control: a request that would miss its deadline is refused at once, with the time at which it would fit.

Work is counted in seconds of the device, estimated from requests of the same kind and size, and by client, as the
scheduler shares the device between clients: the backlog of a client with many requests refuses only its own. A refused
request gets a reservation for the time that `Retry-After` says, or the next to arrive would take its place:
reservations count as requests for those that come later, as long as the device has enough to do.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.engine.latency_model import LatencyModel
from app.engine.protocol import BACKGROUND, RequestContext
from app.errors import Overloaded

MAX_SHARE = 0.7
"""Share of a request's time that the work ahead of it may take: the rest is for clients who come later."""
RESERVATION_SHARE = 0.95
"""The same for a request with a reservation."""
RESERVATION_FREE_SHARE = MAX_SHARE / 2
"""Up to this share of a request's time, work ahead of it admits it without regard to reservations."""
RESERVATION_GRACE = 0.5
"""A reservation holds for half as long again as it was made for."""
RESERVATION_EARLY_S = 0.5
"""A request that comes so much too early still has its reservation."""
MAX_RESERVATIONS = 1000
LONG_S = 30.0
"""Seconds of the device from which on a request is due as late as its deadline allows; shorter ones are due sooner."""
REFUSED_S = 10.0
"""For so long after a refusal a client counts as one that wants more than its share."""
PACE_S = 10.0
"""Time constant of the average of how fast work is done."""
LOADED_S = 1.0
"""Seconds of work from which on that average is measured."""


@dataclass(frozen=True, slots=True)
class _PendingWork:
    """An admitted request, or a reservation for one (`due`, gone at `until`), on the admission's clock."""

    client: str
    weight: float
    seconds: float
    fingerprint: Hashable = None
    context: RequestContext | None = None
    due: float = 0.0
    until: float = math.inf

    @property
    def remaining(self) -> float:
        """Seconds of the device that it still needs; one that takes longer than estimated needs a little more."""
        used = self.context.usage.device_seconds if self.context else 0.0
        return max(self.seconds - used, self.seconds / 10)


class Admission:
    """Admits requests that can meet their deadline on `devices()` devices; `latency` estimates what they take."""

    def __init__(
        self,
        latency: LatencyModel,
        *,
        devices: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._latency = latency
        self._devices = devices
        self._clock = clock
        self._requests: dict[int, _PendingWork] = {}
        self._jobs: dict[int, RequestContext] = {}
        self._reservations: list[_PendingWork] = []
        self._refused: dict[str, tuple[float, float]] = {}  # (weight, until) of clients that were refused lately
        self._finished_seconds = 0.0
        self._observed_seconds = 0.0
        self._observed_at = clock()
        self._busy_devices = 0.0
        self.pace = float(max(1, devices()))

    @property
    def seconds(self) -> float:
        """Seconds of the device that the admitted requests still need."""
        return sum(work.remaining for work in self._requests.values())

    @contextmanager
    def enter(self, kind: str, pixels: int, context: RequestContext, fingerprint: Hashable = None) -> Iterator[float]:
        """Count a request of a kind inside the block, and learn from what it took. Yields the time when it is due.

        That is sooner the less it needs and the less time its client gives it, so that a thumbnail does not wait for
        the large picture of the same client (deadlines in proportion to the work bound the largest stretch: Bender,
        Chakrabarti & Muthukrishnan, 1998), and early enough that it can be done by its deadline.

        By `fingerprint` a request of the same client is recognized when it is sent again. Raises Overloaded where it
        would miss its deadline; a job and a probe are always admitted.
        """
        size = _round_size(pixels)
        seconds = self._latency.seconds(kind, "request", size)
        work = _PendingWork(context.client, context.weight, seconds, fingerprint, context)
        if not (context.background or context.probe):
            self._admit(work, context.deadline)
        if context.background:
            self._jobs[id(context)] = context
        else:
            self._requests[id(context)] = work
        now = self._observe()
        allowed = context.deadline - now
        due = now + min(allowed * work.seconds / LONG_S, max(0.0, allowed - work.seconds) / 2)
        try:
            yield due
            if context.usage.device_seconds:
                self._latency.record(kind, "request", size, 1, context.usage.device_seconds)
        finally:
            self._jobs.pop(id(context), None)
            self._requests.pop(id(context), None)
            self._finished_seconds += context.usage.device_seconds
            self._observe()

    def _admit(self, work: _PendingWork, deadline: float) -> None:
        """Raise Overloaded, and make a reservation, where `work` would miss its deadline."""
        now = self._observe()
        allowed = deadline - now
        self._reservations = [one for one in self._reservations if one.until > now]
        self._refused = {client: entry for client, entry in self._refused.items() if entry[1] > now}
        own = self._take_reservation(work)
        room = self.pace * allowed - work.seconds  # for the work ahead of it
        admitted = self._seconds_ahead(work, [])
        if not admitted or admitted <= RESERVATION_FREE_SHARE * room:
            return
        earlier = [one for one in self._reservations if own is None or one.due < own.due]
        share = RESERVATION_SHARE if own and own.due <= now + RESERVATION_EARLY_S else MAX_SHARE
        wait = (self._seconds_ahead(work, earlier) - share * room) / self.pace
        if wait <= 0:
            return
        self._refused[work.client] = work.weight, now + REFUSED_S
        wait = max(1.0, math.ceil(wait))
        if wait <= allowed + 1 and len(self._reservations) < MAX_RESERVATIONS:
            due, until = now + wait, now + wait + max(2.0, RESERVATION_GRACE * wait)
            self._reservations.append(
                _PendingWork(work.client, work.weight, work.seconds, work.fingerprint, None, due, until)
            )
        raise Overloaded(f"The request would miss its deadline. Try again in {wait:g} seconds.", retry_after=wait)

    def _take_reservation(self, work: _PendingWork) -> _PendingWork | None:
        """Return the reservation that was made for this request, which is used up with it."""
        key = work.client, work.fingerprint
        own = next((one for one in self._reservations if (one.client, one.fingerprint) == key), None)
        if own:
            self._reservations.remove(own)
        return own

    def _seconds_ahead(self, work: _PendingWork, reservations: list[_PendingWork]) -> float:
        """Return the seconds of the device until this client has had as much as it is behind, and `work` is next.

        By start-time fair queueing others get, in that time, what they wait for, or their share where that is less.
        A client that was refused lately is about to wait for its whole share.
        """
        pending = (*self._requests.values(), *reservations)
        waiting: defaultdict[str, float] = defaultdict(float)
        weights: dict[str, float] = {}
        for client, (weight, _) in self._refused.items():
            waiting[client], weights[client] = math.inf, weight
        for one in pending:
            waiting[one.client] += one.remaining
            weights[one.client] = one.weight
        waiting.pop(work.client, None)
        own = sum(one.remaining for one in pending if one.client == work.client)
        rounds = (own + work.seconds) / work.weight
        others = sum(min(seconds, rounds * weights[client]) for client, seconds in waiting.items())
        return own + others + (rounds * BACKGROUND if self._jobs else 0.0)

    def _observe(self) -> float:
        """Update the pace, the seconds of the devices that are done in a second under load; return the time.

        Where there are fewer requests than devices, each keeps one busy: it may send one tile after the other. What
        these do tells what all would do.
        """
        now = self._clock()
        contexts = [*self._jobs.values(), *(work.context for work in self._requests.values() if work.context)]
        used = self._finished_seconds + sum(context.usage.device_seconds for context in contexts)
        elapsed = now - self._observed_at
        if self._busy_devices and elapsed > 0:
            devices = max(1, self._devices())
            share = min(1.0, self._busy_devices / devices)
            pace = max(0.0, used - self._observed_seconds) / elapsed / share
            self.pace += (1 - math.exp(-elapsed / PACE_S)) * (pace - self.pace)
            self.pace = max(self.pace if share == 1 else min(self.pace, devices), 0.1)
        self._observed_at, self._observed_seconds = now, used
        spread = len(self._jobs) + sum(min(work.remaining / LOADED_S, 1.0) for work in self._requests.values())
        self._busy_devices = spread if self.seconds > LOADED_S else 0.0
        return now


def _round_size(pixels: int) -> int:
    """Return a size near `pixels`, of few: a power of the root of two."""
    return round(2 ** (round(2 * math.log2(max(1, pixels))) / 2))
