from __future__ import annotations

import pytest

from app.errors import TooManyRequests
from app.limits.rate import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_refills_evenly() -> None:
    clock = Clock()
    limiter = RateLimiter(3, 60.0, clock=clock)
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(TooManyRequests) as refused:
        limiter.take("a")
    assert refused.value.retry_after == pytest.approx(20)
    limiter.take("b")
    clock.now += 20
    limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")
    clock.now += 1e6
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("a")


def test_refusals_cost_nothing_and_the_table_is_bounded() -> None:
    clock = Clock()
    limiter = RateLimiter(1, 10.0, clients=2, clock=clock)
    limiter.take("a")
    for _ in range(100):
        with pytest.raises(TooManyRequests):
            limiter.take("a")
    clock.now += 10
    limiter.take("a")
    limiter.take("b")
    limiter.take("c")  # the one that was here longest is forgotten
    limiter.take("a")
    with pytest.raises(TooManyRequests):
        limiter.take("c")
