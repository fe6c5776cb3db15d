"""How many requests with a picture may be in the service at once, of one client and of all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from app.errors import Overloaded

CLIENT_SHARE = 3
"""A client may have so many times as many requests here as there is room left for: three quarters of all, alone."""


class ConcurrencyLimit:
    """Counts requests from their first byte to the last of their answer, `limit` of all clients together.

    `retry_after` gives the seconds after which a refused client should come again.
    """

    def __init__(self, limit: int, retry_after: Callable[[], float]) -> None:
        self._limit = limit
        self._retry_after = retry_after
        self._counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Requests that are counted now."""
        return self._counts.total()

    def acquire(self, client: str) -> Callable[[], None]:
        """Count a request of `client`; return the function that ends this. Raises Overloaded where there is no room."""
        # Dynamic thresholds (Choudhury & Hahne, 1998): however many one client sends, there is room for others.
        if self._counts[client] >= CLIENT_SHARE * (self._limit - self.count):
            text = f"Too many concurrent requests (limit {self._limit}, lower per client)."
            raise Overloaded(text, limit=self._limit, retry_after=self._retry_after())
        self._counts[client] += 1

        def release() -> None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]

        return release
