"""Chooses the replica for each request, independent of Ray itself."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from typing import Any


class LeastOutstandingRouter:
    """Sends each request to the replica with the fewest outstanding ones: sent and not answered, or chosen for and not
    sent yet. Of equal replicas the one that was used least recently is chosen.

    A mixin for Ray Serve's router (`serve_router.Router`). It chooses on one event loop and is notified of results from
    any thread.
    """

    def initialize_state(self, **_: Any) -> None:
        """Begin with nothing outstanding."""
        self._lock = threading.Lock()
        self._sent: Counter[Any] = Counter()
        self._chosen: dict[asyncio.Future[Any], Any] = {}  # the replica of each request that is not assigned yet
        self._last_used: dict[Any, int] = {}
        self._numbers = itertools.count(1)

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any) -> list[list[Any]]:
        """Return the candidates, best first, each a rank of its own.

        Serve may first ask a replica for the length of its queue. Other choices are made meanwhile, so this one counts
        until the request is assigned or cancelled, which completes its future. A request that is chosen for again
        counts once.
        """
        assigned: Any = pending_request.future if pending_request else None
        with self._lock:
            chosen_before = self._chosen.pop(assigned, None) is not None
            pending = Counter(self._chosen.values())
            ranked = sorted(candidate_replicas, key=lambda one: self._rank(one.replica_id, pending))
            self._last_used = {one.replica_id: self._last_used.get(one.replica_id, 0) for one in ranked}
            for best in ranked[:1]:
                self._last_used[best.replica_id] = next(self._numbers)
                if assigned and not assigned.done():
                    self._chosen[assigned] = best.replica_id
        if assigned and not chosen_before:
            assigned.add_done_callback(self._forget_choice)
        return [[one] for one in ranked]

    def on_send_request(self, replica_id: Any) -> None:
        """Count a request that is sent to a replica."""
        with self._lock:
            self._sent[replica_id] += 1
        super().on_send_request(replica_id)  # type: ignore[misc]

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        """Count a request as over, whether it was answered or failed."""
        with self._lock:
            self._sent[replica_id] -= 1
            self._sent += Counter()  # drops replicas without any
        super().on_request_completed(replica_id, internal_request_id)  # type: ignore[misc]

    def _forget_choice(self, assigned: asyncio.Future[Any]) -> None:
        with self._lock:
            self._chosen.pop(assigned, None)

    def _rank(self, replica_id: Any, pending: Counter[Any]) -> tuple[int, int]:
        return self._sent[replica_id] + pending[replica_id], self._last_used.get(replica_id, 0)
