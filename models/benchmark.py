"""Which of two ways to compute the same is faster on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

TURNS = 3


def speedup(one: Callable[[], object], other: Callable[[], object], *, turns: int = TURNS) -> float:
    """Return how many times as fast `other` is as `one`: the best of `turns` runs each, after one that only warms.

    They run in turn, so that what else a machine does meanwhile slows both.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + turns):
        for function, times in zip((one, other), seconds, strict=True):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return min(seconds[0][1:]) / min(seconds[1][1:])
