"""Whose turn it is to use a decoder. No processes, no threads."""

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
    is_large: bool
    since: float
    turn: asyncio.Future[None] = field(repr=False)


class DecoderQueue:
    """Turns on `size` decoders.

    The next turn is that of the waiting client with the fewest turns now, and the earliest among equals. Neither one
    client nor all large pictures together get the last decoder (where there is more than one), so that a small picture
    waits for others that are small, and not for slow ones.
    """

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = size
        self._share = max(1, size - 1)
        self._clock = clock
        self._waiters: deque[_Waiter] = deque()
        self._turns: Counter[str] = Counter()
        self._large = 0

    @property
    def oldest_seconds(self) -> float:
        """Seconds for which the first of those that wait has waited; 0 if none waits."""
        return self._clock() - self._waiters[0].since if self._waiters else 0.0

    @property
    def used(self) -> int:
        """Turns now."""
        return self._turns.total()

    @asynccontextmanager
    async def turn(self, client: str, *, is_large: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it inside the block."""
        waiter = _Waiter(client, is_large, self._clock(), asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._admit()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                self._waiters.remove(waiter)
            else:
                self._give_back(waiter)
            raise
        try:
            yield
        finally:
            self._give_back(waiter)

    def _give_back(self, waiter: _Waiter) -> None:
        self._free += 1
        self._large -= waiter.is_large
        self._turns[waiter.client] -= 1
        if not self._turns[waiter.client]:
            del self._turns[waiter.client]
        self._admit()

    def _admit(self) -> None:
        while self._free:
            ready = (waiter for waiter in self._waiters if self._may_start(waiter))
            first = min(ready, key=lambda waiter: self._turns[waiter.client], default=None)
            if first is None:
                return
            self._waiters.remove(first)
            self._free -= 1
            self._large += first.is_large
            self._turns[first.client] += 1
            first.turn.set_result(None)

    def _may_start(self, waiter: _Waiter) -> bool:
        if waiter.turn.cancelled():  # it is removed by its own task
            return False
        return self._turns[waiter.client] < self._share and not (waiter.is_large and self._large >= self._share)
