"""Turns on decoders: few of each client, and never all of them to large pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.imaging.decoder_queue import DecoderQueue


class Caller:
    """Somebody who wants a turn, and ends it when told."""

    def __init__(self, queue: DecoderQueue, client: str, is_large: bool = False) -> None:
        self.has_turn = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._wait(queue, client, is_large))

    async def _wait(self, queue: DecoderQueue, client: str, is_large: bool) -> None:
        async with queue.turn(client, is_large=is_large):
            self.has_turn = True
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task
        await settle()


async def settle() -> None:
    """Let all tasks do what they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def callers(queue: DecoderQueue, *clients: str, is_large: bool = False) -> list[Caller]:
    made = [Caller(queue, client, is_large) for client in clients]
    await settle()
    return made


def turns(made: list[Caller]) -> list[bool]:
    return [caller.has_turn for caller in made]


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(main())


def test_one_client_leaves_a_decoder_to_others() -> None:
    async def work() -> None:
        queue = DecoderQueue(4)
        assert turns(await callers(queue, *"aaaaa")) == [True, True, True, False, False]
        assert turns(await callers(queue, "b")) == [True]
        assert queue.used == 4

    run(work)


def test_large_pictures_leave_a_decoder_to_small_ones() -> None:
    async def work() -> None:
        queue = DecoderQueue(3)
        large = await callers(queue, *"abc", is_large=True)
        assert turns(large) == [True, True, False]
        [small] = await callers(queue, "d")
        assert small.has_turn
        await small.end()
        assert not large[2].has_turn
        await large[0].end()
        assert large[2].has_turn

    run(work)


def test_a_single_decoder_serves_all() -> None:
    async def work() -> None:
        queue = DecoderQueue(1)
        first, second = await callers(queue, *"aa", is_large=True)
        assert turns([first, second]) == [True, False]
        await first.end()
        assert second.has_turn

    run(work)


def test_the_client_with_the_fewest_turns_is_next_and_the_earliest_among_equals() -> None:
    async def work() -> None:
        queue = DecoderQueue(2)
        await callers(queue, "x")
        [running] = await callers(queue, "a")
        first, later, other = await callers(queue, *"bab")
        await running.end()
        assert turns([first, later, other]) == [True, False, False]
        await first.end()
        assert turns([later, other]) == [True, False]  # it came before

    run(work)


def test_one_who_gives_up_leaves_nothing() -> None:
    async def work() -> None:
        queue = DecoderQueue(1)
        running, gone, next_one = await callers(queue, *"abc")
        gone.task.cancel()
        await settle()
        await running.end()
        assert next_one.has_turn
        await next_one.end()
        assert queue.used == 0
        assert queue.oldest_seconds == 0

    run(work)


def test_one_who_gives_up_just_when_the_turn_comes_gives_it_back() -> None:
    async def work() -> None:
        queue = DecoderQueue(1)
        running, gone, next_one = await callers(queue, *"abc")
        running._end.set()
        await asyncio.sleep(0)  # `running` gives its turn to `gone`, who has not noticed yet
        gone.task.cancel()
        await settle()
        assert not gone.has_turn
        assert next_one.has_turn

    run(work)


def test_age_of_the_first_who_waits() -> None:
    async def work() -> None:
        now = [10.0]
        queue = DecoderQueue(1, clock=lambda: now[0])
        await callers(queue, *"ab")
        now[0] = 12.5
        assert queue.oldest_seconds == 2.5

    run(work)
