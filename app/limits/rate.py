"""How many requests a client may send: a token bucket for each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import TooManyRequests


@dataclass(frozen=True, slots=True)
class RateStatus:
    """What is left to a client: `remaining` requests now, and one more in `wait` seconds. `allowed` is whether the
    request that was counted last may be processed."""

    allowed: bool
    remaining: int
    wait: float


class RateLimiter:
    """A token bucket for each client: `requests` in `seconds`, refilled evenly. Remembers `clients` of them."""

    def __init__(
        self, requests: int, seconds: float, *, clients: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.requests = requests
        self.seconds = seconds
        self._refill = requests / seconds
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> RateStatus:
        """Count one request of `client`, unless it has none left; return what is left then."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (float(self.requests), now))
        tokens = min(float(self.requests), tokens + (now - then) * self._refill)
        allowed = tokens >= 1
        tokens -= allowed
        self._buckets[client] = tokens, now
        while len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return RateStatus(allowed, int(tokens), (1 - tokens % 1) / self._refill)

    def refusal(self, status: RateStatus) -> TooManyRequests:
        """Return the error for a request that is not allowed."""
        text = f"Too many requests from this client: the limit is {self.requests} in {self.seconds:g} seconds."
        return TooManyRequests(text, limit=self.requests, retry_after=status.wait)
