"""Limits the memory for decoded pictures, in megapixels."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Waiter:
    client: str
    megapixels: float
    since: float
    turn: asyncio.Future[None] = field(repr=False)

    @property
    def admitted(self) -> bool:
        return self.turn.done() and not self.turn.cancelled()


class PixelBudget:
    """A limit on decoded pictures in memory, in megapixels. A picture above the whole budget is processed alone.

    The next request is that of the waiting client with the fewest pictures in memory, and the earliest among equals, so
    that a client with many requests does not delay others.
    """

    def __init__(self, megapixels: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._whole = megapixels
        self._waiters: deque[_Waiter] = deque()
        self._holds: Counter[str] = Counter()
        self._clock = clock
        self._released = clock()
        self._pace = 1.0
        self.used = 0.0

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return len(self._waiters)

    @property
    def oldest_seconds(self) -> float:
        """Seconds for which the first of those that wait has waited; 0 where none waits."""
        return self._clock() - self._waiters[0].since if self._waiters else 0.0

    def seconds_ahead(self) -> float:
        """Return about how many seconds it takes until all requests that wait now have started."""
        return max(1.0, self._pace * len(self._waiters))

    @asynccontextmanager
    async def hold(self, megapixels: float, client: str = "anonymous") -> AsyncIterator[None]:
        """Wait until `megapixels` fit into the budget, and hold them inside the block."""
        wanted = min(megapixels, self._whole)
        await self._acquire(client, wanted)
        try:
            yield
        finally:
            self._release(client, wanted)

    async def _acquire(self, client: str, wanted: float) -> None:
        if not self._waiters:
            self._released = self._clock()  # nobody waited until now: what passed before is no pace
        waiter = _Waiter(client, wanted, self._clock(), asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._admit()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.admitted:
                self._give_back(client, wanted)
            else:
                self._waiters.remove(waiter)
            self._admit()
            raise

    def _release(self, client: str, megapixels: float) -> None:
        now = self._clock()
        if self._waiters:  # seconds per request while the budget is used up
            self._pace = 0.9 * self._pace + 0.1 * (now - self._released)
        self._released = now
        self._give_back(client, megapixels)
        self._admit()

    def _give_back(self, client: str, megapixels: float) -> None:
        self.used -= megapixels
        self._holds[client] -= 1
        if not self._holds[client]:
            del self._holds[client]

    def _fits(self, wanted: float) -> bool:
        return self.used + wanted <= self._whole * (1 + 1e-9)

    def _admit(self) -> None:
        while True:
            # A cancelled waiter is removed by its own task.
            there = (waiter for waiter in self._waiters if not waiter.turn.cancelled())
            first = min(there, key=lambda waiter: self._holds[waiter.client], default=None)
            if first is None or not self._fits(first.megapixels):
                return
            self._waiters.remove(first)
            self.used += first.megapixels
            self._holds[first.client] += 1
            first.turn.set_result(None)
