"""Who is let in: a request that would be done too late is refused at once, with the time at which it would fit.

Work is counted in seconds of the device, from what requests of that kind and size took before, and by client as the
scheduler shares the device between them: a greedy client's backlog keeps nobody out but itself. Whoever is refused is
promised a place for when it is told to come back, or the next to come would take it: what is promised counts as here
for those who come after, as long as the device has enough to do.
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

RESERVE = 0.7
"""Share of a request's time that what is ahead of it may take: the rest is for clients who come later."""
PROMISED = 0.95
"""The same for a request that was told to come back."""
PLENTY = RESERVE / 2
"""Share of a request's time up to which what is ahead of it keeps it out for no promise."""
GRACE = 0.5
"""A promise holds for half as long again as it was made for."""
LONG_S = 30.0
"""Seconds of the device from which on a request is due as late as its patience allows; what needs less is sooner."""
EARLY_S = 0.5
"""Whoever comes back so much too early has kept to what it was told."""
PRESSING_S = 10.0
"""For so long after a refusal a client is taken for one who wants more than its share."""
MOST_PROMISES = 1000
PACE_S = 10.0
"""Time constant of the average of how fast work is done."""
LOADED_S = 1.0
"""Seconds of work from which on that is measured."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A request that is here, or that was promised a place (`due`, gone at `until`)."""

    client: str
    weight: float
    seconds: float
    mark: Hashable = None
    context: RequestContext | None = None
    due: float = 0.0
    until: float = math.inf

    @property
    def left(self) -> float:
        """Seconds of the device that it still needs; one that takes longer than expected needs a little more."""
        device_seconds = self.context.usage.device_seconds if self.context else 0.0
        return max(self.seconds - device_seconds, self.seconds / 10)


class Admission:
    """The requests that are here, and those that were told when to come back: they are let in before others then."""

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
        self._here: dict[int, _Work] = {}
        self._jobs: dict[int, RequestContext] = {}
        self._promises: list[_Work] = []
        self._pressing: dict[str, tuple[float, float]] = {}
        self._done = 0.0
        self._seen = 0.0
        self._then = clock()
        self._at_work = 0.0
        self.pace = float(max(1, devices()))

    @property
    def seconds(self) -> float:
        """Seconds of the device that the requests here still need."""
        return sum(work.left for work in self._here.values())

    @contextmanager
    def enter(self, kind: str, pixels: int, context: RequestContext, mark: Hashable = None) -> Iterator[float]:
        """Count a request of a kind as here inside the block, and learn from what it took. Gives when it is due.

        That is sooner the less it needs and the less patience its caller has, so that a thumbnail does not wait for the
        large picture of the same client (deadlines in proportion to the work bound the largest stretch: Bender,
        Chakrabarti & Muthukrishnan, 1998), and early enough that it can be done by its deadline.

        By `mark` a request of the same client is known when it comes again. Raises Overloaded where it would not be
        done by its deadline; a job and a probe always come in.
        """
        size = _size(pixels)
        work = _Work(context.client, context.weight, self._latency.seconds(kind, "request", size), mark, context)
        if not (context.background or context.probe):
            self._admit(work, context.deadline)
        if context.background:
            self._jobs[id(context)] = context
        else:
            self._here[id(context)] = work
        now = self._observe()
        allowed = context.deadline - now
        due = now + min(allowed * work.seconds / LONG_S, max(0.0, allowed - work.seconds) / 2)
        try:
            yield due
            if context.usage.device_seconds:
                self._latency.record(kind, "request", size, 1, context.usage.device_seconds)
        finally:
            self._jobs.pop(id(context), None)
            self._here.pop(id(context), None)
            self._done += context.usage.device_seconds
            self._observe()

    def _admit(self, work: _Work, deadline: float) -> None:
        now = self._observe()
        allowed = deadline - now
        self._promises = [promise for promise in self._promises if promise.until > now]
        self._pressing = {client: entry for client, entry in self._pressing.items() if entry[1] > now}
        kept = next((one for one in self._promises if (one.client, one.mark) == (work.client, work.mark)), None)
        if kept:
            self._promises.remove(kept)
        room = self.pace * allowed - work.seconds  # for what is ahead of it
        here = self._ahead(work, [])
        if not here or here <= PLENTY * room:
            return
        before = [one for one in self._promises if kept is None or one.due < kept.due]
        reserve = PROMISED if kept and kept.due <= now + EARLY_S else RESERVE
        wait = (self._ahead(work, before) - reserve * room) / self.pace
        if wait <= 0:
            return
        self._pressing[work.client] = work.weight, now + PRESSING_S
        wait = max(1.0, math.ceil(wait))
        if wait <= allowed + 1 and len(self._promises) < MOST_PROMISES:
            due, until = now + wait, now + wait + max(2.0, GRACE * wait)
            self._promises.append(_Work(work.client, work.weight, work.seconds, work.mark, None, due, until))
        raise Overloaded(
            f"There is more to do than can be done in time. Try again in {wait:g} seconds.", retry_after=wait
        )

    def _ahead(self, work: _Work, promises: list[_Work]) -> float:
        """Return the seconds of the device until this client has had as much as it is behind, and `work` is next.

        By start-time fair queueing others get, in that time, what they wait for, or their share where that is less.
        Whoever was refused of late is about to wait for its whole share.
        """
        waiting: defaultdict[str, float] = defaultdict(float)
        weights: dict[str, float] = {}
        for client, (weight, _) in self._pressing.items():
            waiting[client], weights[client] = math.inf, weight
        for one in (*self._here.values(), *promises):
            waiting[one.client] += one.left
            weights[one.client] = one.weight
        waiting.pop(work.client, None)
        own = sum(one.left for one in (*self._here.values(), *promises) if one.client == work.client)
        rounds = (own + work.seconds) / work.weight
        others = sum(min(seconds, rounds * weights[client]) for client, seconds in waiting.items())
        return own + others + (rounds * BACKGROUND if self._jobs else 0.0)

    def _observe(self) -> float:
        """Follow how many seconds of the devices are done a second while there is work; return the time.

        Where fewer requests are here than devices, each keeps one at work: it may send one tile after the other. What
        these do tells what all would do.
        """
        now = self._clock()
        contexts = [*self._jobs.values(), *(work.context for work in self._here.values() if work.context)]
        device_seconds = self._done + sum(context.usage.device_seconds for context in contexts)
        passed = now - self._then
        if self._at_work and passed > 0:
            devices = max(1, self._devices())
            share = min(1.0, self._at_work / devices)
            pace = max(0.0, device_seconds - self._seen) / passed / share
            self.pace += (1 - math.exp(-passed / PACE_S)) * (pace - self.pace)
            self.pace = max(self.pace if share == 1 else min(self.pace, devices), 0.1)
        self._then, self._seen = now, device_seconds
        spread = len(self._jobs) + sum(min(work.left / LOADED_S, 1.0) for work in self._here.values())
        self._at_work = spread if self.seconds > LOADED_S else 0.0
        return now


def _size(pixels: int) -> int:
    """Return a size near `pixels`, of few: a power of the root of two."""
    return round(2 ** (round(2 * math.log2(max(1, pixels))) / 2))
