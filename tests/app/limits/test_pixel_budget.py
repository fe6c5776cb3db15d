from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.limits.pixel_budget import PixelBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_those_who_wait_are_let_in_in_order() -> None:
    async def scenario() -> None:
        budget = PixelBudget(10)
        order: list[str] = []
        leave: dict[str, asyncio.Event] = {name: asyncio.Event() for name in "abcd"}

        async def hold(name: str, megapixels: float) -> None:
            async with budget.hold(megapixels):
                order.append(name)
                await leave[name].wait()

        tasks = [asyncio.create_task(hold(*who)) for who in (("a", 6), ("b", 6), ("c", 1), ("d", 99))]
        await settle()
        assert (order, budget.used, budget.waiting) == (["a"], 6, 3)  # c does not overtake b
        leave["a"].set()
        await settle()
        assert (order, budget.used) == (["a", "b", "c"], 7)
        leave["b"].set()
        await settle()
        assert order == ["a", "b", "c"]  # the whole budget is not free yet
        leave["c"].set()
        await settle()
        assert (order, budget.used) == (["a", "b", "c", "d"], 10)
        leave["d"].set()
        await asyncio.gather(*tasks)
        assert (budget.used, budget.waiting) == (0, 0)

    asyncio.run(scenario())


def test_the_time_until_ones_turn_is_measured() -> None:
    clock = Clock()
    told: dict[int, float] = {}

    async def scenario() -> None:
        budget = PixelBudget(1, clock=clock)
        assert budget.seconds_ahead() == 1

        async def stay() -> None:
            async with budget.hold(1):
                await asyncio.sleep(0)
                clock.now += 7
                told[budget.waiting] = budget.seconds_ahead()

        await asyncio.gather(*(stay() for _ in range(60)))

    asyncio.run(scenario())
    assert told[10] == pytest.approx(70, rel=0.05)


def test_the_wait_of_the_first_that_waits_is_measured() -> None:
    clock = Clock()

    async def scenario() -> None:
        budget = PixelBudget(1, clock=clock)
        leave = asyncio.Event()

        async def stay() -> None:
            async with budget.hold(1):
                await leave.wait()

        tasks = [asyncio.create_task(stay())]
        await settle()
        clock.now += 9
        assert budget.oldest_seconds == 0  # it does not wait
        for seconds in (4, 3):
            tasks.append(asyncio.create_task(stay()))
            await settle()
            clock.now += seconds
        assert budget.oldest_seconds == 7
        leave.set()
        await asyncio.gather(*tasks)
        assert budget.oldest_seconds == 0

    asyncio.run(scenario())


def test_an_hour_without_anybody_is_no_pace() -> None:
    clock = Clock()

    async def scenario() -> None:
        budget = PixelBudget(1, clock=clock)
        leave = asyncio.Event()

        async def stay() -> None:
            async with budget.hold(1):
                await leave.wait()
                clock.now += 1

        clock.now += 3600
        tasks = [asyncio.create_task(stay()) for _ in range(100)]
        await settle()
        leave.set()
        while budget.waiting > 90:
            await asyncio.sleep(0)
        assert budget.seconds_ahead() == pytest.approx(budget.waiting)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_whoever_sends_many_waits_behind_his_own() -> None:
    async def scenario() -> None:
        budget = PixelBudget(10)
        order: list[str] = []
        leave: dict[str, asyncio.Event] = {name: asyncio.Event() for name in "abcdefgh"}

        async def hold(name: str, client: str, megapixels: float) -> None:
            async with budget.hold(megapixels, client):
                order.append(name)
                await leave[name].wait()

        greedy = [asyncio.create_task(hold(name, "greedy", 4)) for name in "abcdef"]
        await settle()
        assert order == ["a", "b"]
        polite = [asyncio.create_task(hold(name, client, 3)) for name, client in (("g", "one"), ("h", "two"))]
        await settle()
        leave["a"].set()
        await settle()
        assert order == ["a", "b", "g", "h"]
        leave["g"].set()
        leave["h"].set()
        await settle()
        assert order == ["a", "b", "g", "h", "c"]
        for one in leave.values():
            one.set()
        await asyncio.gather(*greedy, *polite)
        assert (order[5:], budget.used, budget.waiting) == (["d", "e", "f"], 0, 0)

    asyncio.run(scenario())


def test_a_large_picture_is_not_overtaken_for_ever_by_small_ones_of_others() -> None:
    async def scenario() -> None:
        budget = PixelBudget(10)
        order: list[str] = []

        async def hold(name: str, megapixels: float) -> None:
            async with budget.hold(megapixels, name):
                order.append(name)
                await asyncio.sleep(0)

        names = ["first", "large", *map(str, range(20))]
        await asyncio.gather(*(hold(name, 10 if name == "large" else 1) for name in names))
        assert order[:2] == ["first", "large"]

    asyncio.run(scenario())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.1, 12), st.integers(0, 6), st.booleans()), max_size=20), st.randoms())
def test_whatever_comes_goes_or_gives_up_nothing_is_lost(plan: list[tuple[float, int, bool]], random: Any) -> None:
    async def scenario() -> None:
        budget = PixelBudget(10)
        most = 0.0

        async def stay(megapixels: float, rounds: int) -> None:
            nonlocal most
            async with budget.hold(megapixels, f"client {rounds % 3}"):
                most = max(most, budget.used)
                for _ in range(rounds):
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(stay(megapixels, rounds)) for megapixels, rounds, _ in plan]
        for task, (_, _, gives_up) in zip(tasks, plan, strict=True):
            for _ in range(random.randint(0, 4)):
                await asyncio.sleep(0)
            if gives_up:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 10 + 1e-6
        assert abs(budget.used) < 1e-6
        assert budget.waiting == 0

    asyncio.run(scenario())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
