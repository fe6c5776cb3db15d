"""Admission control: a request that would miss its deadline is rejected immediately, with a time to try again.

Work is measured in device seconds, estimated from earlier requests of the same kind and size. It is counted per client,
because the scheduler shares the device between clients: the backlog of one client causes only its own requests to be
rejected. A rejected request gets a reservation for the time in `Retry-After`, so that later requests do not take its
place: reservations count as requests for all that arrive later, as long as the device has enough work.
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
"""Share of a request's allowed time that the work ahead of it may take. The rest is for clients that arrive later."""
RESERVATION_SHARE = 0.95
"""The same for a request with a reservation."""
RESERVATION_FREE_SHARE = MAX_SHARE / 2
"""A request is admitted regardless of reservations if the work ahead takes at most this share of its allowed time."""
RESERVATION_GRACE = 0.5
"""A reservation stays valid after its time for this share of the wait."""
RESERVATION_EARLY_S = 0.5
"""A request may arrive so many seconds before the time of its reservation."""
MAX_RESERVATIONS = 1000
LONG_S = 30.0
"""Requests of at least so many device seconds are due as late as their deadline allows; shorter ones are due sooner."""
REFUSED_S = 10.0
"""Seconds after a rejection for which a client counts as using its whole share."""
PACE_S = 10.0
"""Time constant, in seconds, of the moving average of the pace."""
LOADED_S = 1.0
"""The pace is measured only while more device seconds than this are pending."""


@dataclass(frozen=True, slots=True)
class _PendingWork:
    """An admitted request, or a reservation for the time `due` that expires at `until`, on the clock of Admission."""

    client: str
    weight: float
    seconds: float
    fingerprint: Hashable = None
    context: RequestContext | None = None
    due: float = 0.0
    until: float = math.inf

    @property
    def remaining(self) -> float:
        """Device seconds that it still needs: at least a tenth of the estimate, even after more than estimated."""
        used = self.context.usage.device_seconds if self.context else 0.0
        return max(self.seconds - used, self.seconds / 10)


class Admission:
    """Admits requests that can meet their deadline on `devices()` devices; `latency` estimates their device seconds."""

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
        self._refused: dict[str, tuple[float, float]] = {}  # (weight, until) of recently rejected clients
        self._finished_seconds = 0.0
        self._observed_seconds = 0.0
        self._observed_at = clock()
        self._busy_devices = 0.0
        self.pace = float(max(1, devices()))

    @property
    def seconds(self) -> float:
        """Device seconds that the admitted requests still need."""
        return sum(work.remaining for work in self._requests.values())

    @contextmanager
    def enter(self, kind: str, work: int, context: RequestContext, fingerprint: Hashable = None) -> Iterator[float]:
        """Count a request inside the block, and record its device seconds. Yields the time when it is due.

        `work` is how many pixels a model computes for it; from earlier requests of about the same work and the same
        `kind` its device seconds are estimated.

        Requests that need less time are due sooner, so that a thumbnail does not wait for a large picture of the same
        client (due times in proportion to the work bound the maximum stretch: Bender, Chakrabarti & Muthukrishnan,
        1998). A request is due early enough to finish before its deadline.

        `fingerprint` identifies a request of the same client that is sent again. Raises Overloaded if the request would
        miss its deadline; jobs and probes are always admitted.
        """
        size = _round_size(work)
        seconds = self._latency.seconds(kind, "request", size)
        pending = _PendingWork(context.client, context.weight, seconds, fingerprint, context)
        if not (context.background or context.probe):
            self._admit(pending, context.deadline)
        if context.background:
            self._jobs[id(context)] = context
        else:
            self._requests[id(context)] = pending
        now = self._observe()
        allowed = context.deadline - now
        due = now + min(allowed * pending.seconds / LONG_S, max(0.0, allowed - pending.seconds) / 2)
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
        """Raise Overloaded and make a reservation if `work` would miss its deadline."""
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
        """Remove and return the reservation for this request, or return None."""
        key = work.client, work.fingerprint
        own = next((one for one in self._reservations if (one.client, one.fingerprint) == key), None)
        if own:
            self._reservations.remove(own)
        return own

    def _seconds_ahead(self, work: _PendingWork, reservations: list[_PendingWork]) -> float:
        """Return the device seconds that are used before `work` finishes, without its own.

        With start-time fair queueing, each other client gets the work that it waits for in this time, but at most its
        share. A recently rejected client counts as using its whole share.
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
        """Update the pace, the device seconds that are completed per second under load, and return the time.

        With fewer requests than devices, only some devices are busy, and the pace of all is extrapolated from them.
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
    """Return `pixels` rounded to a power of the square root of two, so that there are few different sizes."""
    return round(2 ** (round(2 * math.log2(max(1, pixels))) / 2))
