"""Chooses the next batch. Knows no thread, no event loop and no clock: requests in, batches out.

Between clients the device's time is shared by start-time fair queueing (Goyal, Vin & Cheng, 1996), in measured seconds
over the client's weight: of all clients that wait, the one with the lowest virtual time goes next, and one that comes
or returns starts level with the others. Of one client's requests the one that is due first goes first. A batch never
waits to fill: it takes the requests that wait, in the size that takes least time per tile.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.engine.latency_model import LatencyModel
from app.engine.protocol import InferenceRequest

GROW_AFTER = 50
"""Successful batches of the largest size allowed after which twice as many tiles are tried again."""

Key = tuple[object, ...]


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request in the queue. Those of equal `key` may share a batch of up to `limit`; `order` is that of arrival."""

    request: InferenceRequest
    limit: int
    order: int
    key: Key = field(init=False)
    charged: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        shapes = tuple(sorted((name, array.shape) for name, array in self.request.inputs.items()))
        self.key = self.request.model, self.request.signature, shapes

    @property
    def client(self) -> str:
        return self.request.context.client

    @property
    def rank(self) -> tuple[float, int]:
        """The order among the requests of one client, lowest first."""
        context = self.request.context
        return min(context.due, context.deadline), self.order

    def __lt__(self, other: QueuedRequest) -> bool:
        return self.rank < other.rank


@dataclass(slots=True)
class _BatchCap:
    """How many tiles a batch of one key may have since one failed, and how many batches of that size went well."""

    tiles: int
    successes: int = 0


W = TypeVar("W", bound=QueuedRequest)


class FairQueue(Generic[W]):
    """Requests that wait, and the virtual time of each client: the device seconds it used, over its weight."""

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        self._queues: dict[str, dict[Key, list[W]]] = {}
        self._served: dict[str, float] = {}
        self._virtual = 0.0
        self._caps: dict[Key, _BatchCap] = {}
        self._count = 0
        self.pixels = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[W]:
        for queues in self._queues.values():
            for queue in queues.values():
                yield from queue

    def __contains__(self, queued: W) -> bool:
        return queued in self._queues.get(queued.client, {}).get(queued.key, ())

    def add(self, queued: W) -> None:
        """Add a request."""
        client = queued.client
        if client not in self._queues:
            self._served[client] = max(self._served.get(client, 0.0), self._virtual)
        heapq.heappush(self._queues.setdefault(client, {}).setdefault(queued.key, []), queued)
        self._count += 1
        self.pixels += queued.request.pixels

    def remove(self, queued: W) -> None:
        """Remove a request, if it waits."""
        if queued in self:
            queue = self._queues[queued.client][queued.key]
            queue.remove(queued)
            heapq.heapify(queue)
            self._count_removed(queued)

    def clear(self) -> None:
        """Forget all requests and virtual times."""
        self._queues.clear()
        self._served.clear()
        self._virtual = 0.0
        self._count = self.pixels = 0

    def virtual_time(self, client: str) -> float:
        """Return the device seconds that a client used, over its weight."""
        return self._served.get(client, 0.0)

    def next_request(self, *, jobs: bool = True, most_seconds: float = math.inf) -> W | None:
        """Return the request whose turn it is; without `jobs`, the interactive one. Those that take longer than
        `most_seconds` are passed over."""
        heads = []
        for client, queues in self._queues.items():
            firsts = [queue[0] for queue in queues.values() if self.seconds(queue[0]) <= most_seconds]
            if firsts:
                heads.append((self.virtual_time(client), min(firsts)))
        return min((head for head in heads if jobs or not _is_job(head[1])), default=(0.0, None))[1]

    def take(self, *, jobs: bool = True, most_seconds: float = math.inf) -> list[W]:
        """Return the next batch and charge it to its clients: the next request and others of its key, from their
        clients in turn."""
        next_request = self.next_request(jobs=jobs, most_seconds=most_seconds)
        if next_request is None:
            return []
        self._virtual = self.virtual_time(next_request.client)
        queues = {
            client: queues[next_request.key] for client, queues in self._queues.items() if next_request.key in queues
        }
        if not jobs:
            queues = {client: queue for client, queue in queues.items() if not _is_job(queue[0])}
        waiting = sum(map(len, queues.values()))
        size = self._size(next_request, waiting)
        count = min(size, waiting)
        cost = self._seconds(next_request, size) / count
        heads = [(self.virtual_time(client), queue[0]) for client, queue in queues.items()]
        heapq.heapify(heads)
        batch: list[W] = []
        while len(batch) < count:
            _, one = heapq.heappop(heads)
            queue = queues[one.client]
            batch.append(heapq.heappop(queue))
            self._count_removed(one)
            one.charged = cost
            self._served[one.client] = self.virtual_time(one.client) + cost / one.request.context.weight
            if queue:
                heapq.heappush(heads, (self.virtual_time(one.client), queue[0]))
        self._served = {
            client: time for client, time in self._served.items() if client in self._queues or time > self._virtual
        }
        return batch

    def charge(self, batch: Sequence[QueuedRequest], seconds: float) -> None:
        """Charge the `seconds` that a batch took, in place of the estimate."""
        for one in batch:
            if one.client in self._served:
                self._served[one.client] += (seconds / len(batch) - one.charged) / one.request.context.weight

    def size_for(self, batch: Sequence[QueuedRequest]) -> int:
        """Return how many tiles the device is given for `batch`: copies fill it up to a size that repeats."""
        return max(len(batch), self._size(batch[0], len(batch)))

    def record_failure(self, batch: Sequence[QueuedRequest]) -> None:
        """Halve the batch size after a batch of several failed."""
        self._caps[batch[0].key] = _BatchCap(max(1, len(batch) // 2))

    def record_success(self, batch: Sequence[QueuedRequest]) -> None:
        """Count a batch that went well: GROW_AFTER of them double the batch size again."""
        cap = self._caps.get(batch[0].key)
        if cap is None or len(batch) < cap.tiles:
            return
        cap.successes += 1
        if cap.successes >= GROW_AFTER:
            cap.tiles, cap.successes = cap.tiles * 2, 0
            if cap.tiles >= batch[0].limit:
                del self._caps[batch[0].key]

    def seconds(self, queued: QueuedRequest) -> float:
        """Return the estimated seconds of one request by itself."""
        return self._seconds(queued, 1)

    def _seconds(self, queued: QueuedRequest, tiles: int) -> float:
        request = queued.request
        return self._latency.seconds(request.model, request.signature, request.pixels, tiles)

    def _size(self, next_request: QueuedRequest, waiting: int) -> int:
        cap = self._caps.get(next_request.key)
        limit = next_request.limit if cap is None else min(next_request.limit, cap.tiles)
        request = next_request.request
        return self._latency.best_batch_size(request.model, request.signature, request.pixels, waiting, limit)

    def _count_removed(self, queued: W) -> None:
        queues = self._queues[queued.client]
        if not queues[queued.key]:
            del queues[queued.key]
            if not queues:
                del self._queues[queued.client]
        self._count -= 1
        self.pixels -= queued.request.pixels


def _is_job(queued: QueuedRequest) -> bool:
    return queued.request.context.background
