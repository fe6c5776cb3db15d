"""The choice of a replica, without Ray."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from app.engine.ray.router import LeastOutstandingRouter


@dataclass(frozen=True)
class Candidate:
    replica_id: str


class Bare:
    """Stands for Ray Serve's own router, and records its notifications."""

    def __init__(self) -> None:
        self.notifications: list[str] = []

    def on_send_request(self, replica_id: str) -> None:
        self.notifications.append(f"sent to {replica_id}")

    def on_request_completed(self, replica_id: str, internal_request_id: str) -> None:
        self.notifications.append(f"{internal_request_id} back from {replica_id}")


class Router(LeastOutstandingRouter, Bare):
    def __init__(self) -> None:
        super().__init__()
        self.initialize_state()

    def choose(self, *names: str) -> str:
        ranks: list[list[Any]] = asyncio.run(self.choose_replicas([Candidate(name) for name in names], None))
        assert sorted(one.replica_id for (one,) in ranks) == sorted(names), "each is a rank of its own"
        return str(ranks[0][0].replica_id)

    def send(self, *names: str) -> str:
        chosen = self.choose(*names)
        self.on_send_request(chosen)
        return chosen


def test_a_burst_is_spread_evenly() -> None:
    router = Router()
    assert Counter(router.send("a", "b", "c") for _ in range(12)) == {"a": 4, "b": 4, "c": 4}


def test_requests_that_are_chosen_for_before_any_is_sent_are_spread_too() -> None:
    router = Router()
    assert Counter(router.choose("a", "b") for _ in range(6)) == {"a": 3, "b": 3}


@dataclass(frozen=True)
class Pending:
    future: asyncio.Future[str]


def chosen(router: Router, futures: Sequence[asyncio.Future[str]], *names: str) -> Awaitable[list[str]]:
    """Choose a replica for each of these requests, before any is sent."""

    async def each(future: asyncio.Future[str]) -> str:
        candidates = [Candidate(name) for name in names]
        return str((await router.choose_replicas(candidates, Pending(future)))[0][0].replica_id)

    return asyncio.gather(*map(each, futures))


def test_requests_that_are_not_sent_yet_count_as_outstanding() -> None:
    async def work() -> None:
        router, futures = Router(), [asyncio.Future[str]() for _ in range(7)]
        router.on_send_request("a")
        found = await chosen(router, futures, "a", "b")
        assert Counter(found) == {"a": 3, "b": 4}
        for future, name in zip(futures, found, strict=True):  # as Ray Serve does
            future.set_result(name)
            router.on_send_request(name)
        await asyncio.sleep(0)
        assert router._sent == {"a": 4, "b": 4}
        assert not router._chosen

    asyncio.run(work())


def test_a_choice_counts_once_and_not_after_its_request_was_cancelled() -> None:
    async def work() -> None:
        router, (first, second) = Router(), [asyncio.Future[str]() for _ in range(2)]
        for _ in range(5):  # no candidate accepted it: Ray Serve asks again
            await chosen(router, [first], "a", "b")
        assert sum(Counter(router._chosen.values()).values()) == 1
        first.cancel()
        await asyncio.sleep(0)
        assert not router._chosen
        await chosen(router, [first, second], "a", "b")
        assert list(router._chosen) == [second]

    asyncio.run(work())


def test_the_replica_with_the_fewest_outstanding_requests_is_next() -> None:
    router = Router()
    for _ in range(6):
        router.send("a", "b")
    for number in range(3):
        router.on_request_completed("b", str(number))
    assert [router.send("a", "b") for _ in range(3)] == ["b", "b", "b"]


def test_a_replica_that_died_is_forgotten_and_a_new_one_is_used() -> None:
    router = Router()
    for _ in range(4):
        router.send("a", "b")
    assert [router.send("b", "c") for _ in range(2)] == ["c", "c"]
    router.on_request_completed("a", "late")
    assert Counter(router.send("b", "c") for _ in range(4)) == {"b": 2, "c": 2}


def test_ray_serves_own_router_is_notified_as_well() -> None:
    router = Router()
    router.on_send_request("a")
    router.on_request_completed("a", "one")
    assert router.notifications == ["sent to a", "one back from a"]
