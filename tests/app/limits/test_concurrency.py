"""Requests that are here at once: one client never takes all the room."""

from __future__ import annotations

import pytest

from app.errors import Overloaded
from app.limits.concurrency import ConcurrencyLimit


def test_one_client_has_three_quarters_of_the_room_and_others_the_rest() -> None:
    limit = ConcurrencyLimit(8, lambda: 7.0)
    releases = [limit.acquire("greedy") for _ in range(6)]
    with pytest.raises(Overloaded) as refused:
        limit.acquire("greedy")
    assert (refused.value.limit, refused.value.retry_after) == (8, 7.0)
    releases.append(limit.acquire("polite"))
    assert limit.count == 7
    for release in releases:
        release()
    assert limit.count == 0
    limit.acquire("greedy")
