"""What keeps one caller, or all of them together, from taking more than there is: body, rate, memory, time."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.api.problems import MalformedRequest, RequestTimeout, TooManyRequests
from app.errors import UploadTooLarge

SLOWEST_BODY = 16 * 1024
"""Bytes a second that prolong the time in which a body must arrive."""


async def read_body(
    receive: Receive, headers: Headers, *, max_bytes: int, timeout_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes.

    Raises UploadTooLarge as soon as it is announced or seen to exceed `max_bytes`; RequestTimeout when it needs more
    than `timeout_s` seconds and one more for each 16 KiB; ClientDisconnect.
    """
    limit = f"{max_bytes / 2**20:g} MiB"
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise UploadTooLarge(
            f"The upload of {int(announced[:20])} bytes is larger than {limit}.", value=announced[:20], limit=max_bytes
        )
    started = time.monotonic()
    seen = 0
    more = True
    while more:
        wait = started + timeout_s + seen / SLOWEST_BODY - time.monotonic()
        try:
            async with asyncio.timeout(max(wait, 0)):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout(
                f"Only {seen} bytes of the body came within {time.monotonic() - started:.0f} seconds.", value=seen
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        seen += len(chunk)
        if seen > max_bytes:
            raise UploadTooLarge(f"The upload is larger than {limit}.", limit=max_bytes)
        yield chunk
        more = message.get("more_body", False)


def cancel_after(value: str | None) -> float:
    """Return the seconds that the header `Cancel-After` allows (`20s`, `500ms`, `20`), infinity where it is absent.

    Raises MalformedRequest.
    """
    if value is None:
        return math.inf
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|ms)?", value.strip(), re.ASCII)
    if not match or float(match[1]) == 0:
        raise MalformedRequest(
            "The header Cancel-After must be a time such as 20s or 500ms.", field="Cancel-After", value=value
        )
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


class RateLimiter:
    """A token bucket for each caller: `requests` in `seconds`, refilled evenly. Remembers `callers` of them."""

    def __init__(
        self, requests: int, seconds: float, *, callers: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = float(requests)
        self._refill = requests / seconds
        self._callers = callers
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one request of `caller`. Raises TooManyRequests with the seconds until the next may come."""
        now = self._clock()
        tokens, then = self._buckets.pop(caller, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._refill)
        allowed = tokens >= 1
        self._buckets[caller] = (tokens - 1 if allowed else tokens, now)
        while len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = (1 - tokens) / self._refill
            raise TooManyRequests(
                f"More than {self._size:g} requests in {self._size / self._refill:g} seconds came from this caller.",
                limit=int(self._size),
                retry_after=wait,
            )


@dataclass(slots=True, eq=False)
class _Waiter:
    client: str
    megapixels: float
    turn: asyncio.Future[None] = field(repr=False)

    @property
    def admitted(self) -> bool:
        return self.turn.done() and not self.turn.cancelled()


class PixelBudget:
    """Pictures held decoded at once, in megapixels. One over the whole budget goes alone.

    Of clients that wait the one that holds the fewest pictures goes next, of equal ones the one that came first:
    whoever sends many waits behind his own.
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

    def seconds_ahead(self) -> float:
        """Return about how long it takes until those who wait now have had their turn."""
        return max(1.0, self._pace * len(self._waiters))

    @asynccontextmanager
    async def hold(self, megapixels: float, client: str = "anonymous") -> AsyncIterator[None]:
        """Wait for room for `megapixels` and keep it inside the block."""
        wanted = min(megapixels, self._whole)
        await self._acquire(client, wanted)
        try:
            yield
        finally:
            self._release(client, wanted)

    async def _acquire(self, client: str, wanted: float) -> None:
        if not self._waiters:
            self._released = self._clock()  # nobody waited until now: what passed before is no pace
        waiter = _Waiter(client, wanted, asyncio.get_running_loop().create_future())
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
        if self._waiters:  # the rate at which a full service finishes requests
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
            # One that is cancelled is about to be taken off by its own task.
            there = (waiter for waiter in self._waiters if not waiter.turn.cancelled())
            first = min(there, key=lambda waiter: self._holds[waiter.client], default=None)
            if first is None or not self._fits(first.megapixels):
                return
            self._waiters.remove(first)
            self.used += first.megapixels
            self._holds[first.client] += 1
            first.turn.set_result(None)
