"""How many requests a client may send: a token bucket for each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from app.errors import TooManyRequests


class RateLimiter:
    """A token bucket for each client: `requests` in `seconds`, refilled evenly. Remembers `clients` of them."""

    def __init__(
        self, requests: int, seconds: float, *, clients: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = float(requests)
        self._refill = requests / seconds
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> None:
        """Count one request of `client`. Raises TooManyRequests with the seconds until the next may come."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._refill)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = (1 - tokens) / self._refill
            raise TooManyRequests(
                f"More than {self._size:g} requests in {self._size / self._refill:g} seconds came from this client.",
                limit=int(self._size),
                retry_after=wait,
            )
