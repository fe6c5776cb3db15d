"""Awaits the parts of one request, a few at a time, so that no request fills the queue or the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

IN_FLIGHT = 4
"""How many parts of one request are in progress at a time."""

R = TypeVar("R")
T = TypeVar("T")


async def bounded_gather(parts: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Await `work` for every part, at most IN_FLIGHT at a time. The first error cancels the rest and is raised."""
    remaining = iter(parts)

    async def worker() -> None:
        for part in remaining:
            await work(part)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def ordered_gather(
    parts: Iterable[T], work: Callable[[T], Awaitable[R]], keep: Callable[[T, R], Awaitable[None]]
) -> None:
    """Await `work` for every part as `bounded_gather` does, then `keep` for each, one at a time in the parts' order.

    If parts overlap, the later part overwrites the earlier one, whichever finished first on the device.
    """
    turn = asyncio.Event()
    turn.set()

    async def one(part: T) -> None:
        nonlocal turn
        mine, turn = turn, asyncio.Event()
        following = turn
        result = await work(part)
        await mine.wait()
        await keep(part, result)
        following.set()

    await bounded_gather(parts, one)
