"""Graceful shutdown: rejects new requests, gives those in progress some time, and waits for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from app.errors import ShuttingDown

R = TypeVar("R")


class Shutdown:
    """Whether the service is shutting down, and the work in progress. `begin` may be called from a signal handler."""

    def __init__(self) -> None:
        self.closing = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """Reject new requests from now on."""
        self.closing = True

    def check(self) -> None:
        """Raise ShuttingDown if the service is shutting down."""
        if self.closing:
            raise ShuttingDown("The service is shutting down.", retry_after=5)

    def expire_after(self, seconds: float) -> asyncio.TimerHandle:
        """End all guarded work with ShuttingDown after `seconds`, unless the returned handle is cancelled."""

        def expire() -> None:
            for timeout in self._timeouts:
                timeout.reschedule(0)

        return asyncio.get_running_loop().call_later(seconds, expire)

    async def guard(self, work: Coroutine[Any, Any, R]) -> R:
        """Return the result of `work`. Raises ShuttingDown if the service ends first."""
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                return await work
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ShuttingDown("The service was shut down before the result was ready.", retry_after=5) from None
        finally:
            self._timeouts.discard(timeout)

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run `work` as a task that `drain` waits for, even if nothing else awaits it: threads cannot be stopped."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def drain(self) -> None:
        """Wait until all tasks are done, including cancelled ones whose threads still run."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as retrieved: nothing may await the task any more


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
