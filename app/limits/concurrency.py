"""Limits the number of concurrent picture requests, in total and per client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from app.errors import Overloaded

CLIENT_SHARE = 3
"""A client may have up to so many requests for each free place: a single client gets three quarters of the limit."""


class ConcurrencyLimit:
    """Counts requests from the first byte received to the last byte sent; at most `limit` for all clients together.

    `retry_after` returns the seconds after which a rejected client should try again.
    """

    def __init__(self, limit: int, retry_after: Callable[[], float]) -> None:
        self._limit = limit
        self._retry_after = retry_after
        self._counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Number of requests in progress."""
        return self._counts.total()

    def acquire(self, client: str) -> Callable[[], None]:
        """Count a request of `client`; return a function that ends it. Raises Overloaded if the limit is reached."""
        # Dynamic thresholds (Choudhury & Hahne, 1998): one client can never use all places.
        if self._counts[client] >= CLIENT_SHARE * (self._limit - self.count):
            text = f"Too many concurrent requests (limit {self._limit}, lower per client)."
            raise Overloaded(text, limit=self._limit, retry_after=self._retry_after())
        self._counts[client] += 1

        def release() -> None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]

        return release
