"""The end of the service: nothing new is begun, what is under way gets its time, threads are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from app.errors import ShuttingDown

R = TypeVar("R")


class Shutdown:
    """Knows whether the service stops, and ends what is under way then. `begin` may be called from a signal handler."""

    def __init__(self) -> None:
        self.closing = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """Refuse new requests from now on."""
        self.closing = True

    def check(self) -> None:
        """Raise ShuttingDown where the service stops."""
        if self.closing:
            raise ShuttingDown("The service is stopping.", retry_after=5)

    def expire_after(self, seconds: float) -> asyncio.TimerHandle:
        """End whatever is guarded in so many seconds with ShuttingDown, unless the handle is cancelled."""

        def expire() -> None:
            for timeout in self._timeouts:
                timeout.reschedule(0)

        return asyncio.get_running_loop().call_later(seconds, expire)

    async def guard(self, work: Coroutine[Any, Any, R]) -> R:
        """Return what `work` returns. Raises ShuttingDown where the service ends first."""
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                return await work
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ShuttingDown("The service stopped before the answer was ready.", retry_after=5) from None
        finally:
            self._timeouts.discard(timeout)

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run `work` as a task that `drain` waits for, even where nobody else does: a thread cannot be stopped."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def drain(self) -> None:
        """Wait until all tasks are done, cancelled ones too whose threads are still at work."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: whoever awaited it may be gone


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has gone away. Its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
