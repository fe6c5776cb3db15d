from __future__ import annotations

import pytest

from app.limits.rate import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_refills_evenly() -> None:
    clock = Clock()
    limiter = RateLimiter(3, 60.0, clock=clock)
    left = [limiter.take("a") for _ in range(3)]
    assert [(one.allowed, one.remaining) for one in left] == [(True, 2), (True, 1), (True, 0)]
    refused = limiter.take("a")
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.wait == pytest.approx(20)
    error = limiter.refusal(refused)
    assert error.retry_after == pytest.approx(20)
    assert error.limit == 3
    assert limiter.take("b").allowed
    clock.now += 20
    assert limiter.take("a").allowed
    assert not limiter.take("a").allowed
    clock.now += 1e6
    assert [limiter.take("a").allowed for _ in range(4)] == [True, True, True, False]


def test_the_time_until_one_more_request_is_measured_while_some_are_left() -> None:
    clock = Clock()
    limiter = RateLimiter(4, 60.0, clock=clock)
    limiter.take("a")
    clock.now += 10
    status = limiter.take("a")  # 3 and two thirds were left
    assert (status.allowed, status.remaining) == (True, 2)
    assert status.wait == pytest.approx(5)


def test_refusals_cost_nothing_and_the_table_is_bounded() -> None:
    clock = Clock()
    limiter = RateLimiter(1, 10.0, clients=2, clock=clock)
    assert limiter.take("a").allowed
    for _ in range(100):
        assert not limiter.take("a").allowed
    clock.now += 10
    assert limiter.take("a").allowed
    assert limiter.take("b").allowed
    assert limiter.take("c").allowed  # the one that was here longest is forgotten
    assert limiter.take("a").allowed
    assert not limiter.take("c").allowed
