"""Which requests an engine takes: one rule for the scheduler of a device and for the replicas of a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from app.engine.protocol import InferenceRequest
from app.errors import DeadlineExceeded, Overloaded, ServiceError, ShuttingDown

RESTART_S = 15.0
"""Seconds that a new replica needs, about: `retry_after` where none works."""


class AdmissionQueue:
    """Admits requests until `max_megapixels` wait for a worker (a device or a replica), and counts those admitted.

    A request above the limit is Overloaded, except for probes, for jobs (few run at once), and for further tiles of a
    picture that has some admitted or done: it is not refused half-way, and its task limits how many it sends at once.
    `count` and `pixels` are those of admitted requests that have not left; `rejections` counts the others by reason.
    """

    def __init__(self, max_megapixels: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.closing = False
        self.count = 0
        self.pixels = 0
        self.rejections: Counter[str] = Counter()
        self._max_pixels = max_megapixels * 1e6
        self._clock = clock
        self._tiles_by_request: Counter[str] = Counter()
        self._entered_at: dict[int, float] = {}  # by the identity of the request, in the order of arrival

    @property
    def oldest_seconds(self) -> float:
        """Seconds since the oldest of the admitted requests came; 0 where there is none."""
        return self._clock() - next(iter(self._entered_at.values())) if self._entered_at else 0.0

    def enter(
        self, request: InferenceRequest, *, waiting_pixels: int, seconds_ahead: Callable[[], float], workers: int = 1
    ) -> None:
        """Admit `request` where `waiting_pixels` wait for `workers`; call `leave` when it is over.

        Raises ShuttingDown, DeadlineExceeded, or Overloaded, with the `seconds_ahead` as `retry_after`.
        """
        context = request.context
        if self.closing:
            raise self.reject("shutting-down", shutting_down())
        if context.deadline <= self._clock():
            raise self.reject("deadline-exceeded", too_late())
        if not workers:
            raise self.reject("overloaded", no_worker())
        is_full = waiting_pixels > 0 and waiting_pixels + request.pixels > self._max_pixels * workers
        if is_full and not self._is_exempt(request):
            wait = round(max(1.0, seconds_ahead()), 1)
            text = f"The queue is full. Try again in {wait:g} seconds."
            raise self.reject("overloaded", Overloaded(text, retry_after=wait))
        self.count += 1
        self.pixels += request.pixels
        self._tiles_by_request[context.request_id] += 1
        self._entered_at[id(request)] = self._clock()

    def leave(self, request: InferenceRequest) -> None:
        """Count an admitted request as over, whether done, failed or cancelled."""
        request_id = request.context.request_id
        self.count -= 1
        self.pixels -= request.pixels
        self._entered_at.pop(id(request), None)
        self._tiles_by_request[request_id] -= 1
        if not self._tiles_by_request[request_id]:
            del self._tiles_by_request[request_id]

    def reject(self, reason: str, error: ServiceError) -> ServiceError:
        """Count a rejection and return its error."""
        self.rejections[reason] += 1
        return error

    def _is_exempt(self, request: InferenceRequest) -> bool:
        context = request.context
        has_begun = bool(self._tiles_by_request[context.request_id] or context.usage.device_seconds)
        return has_begun or context.probe or context.background


def shutting_down() -> ShuttingDown:
    """Return the error for requests that the engine does not finish before it ends."""
    return ShuttingDown("The service is shutting down.")


def too_late() -> DeadlineExceeded:
    """Return the error for requests whose deadline has passed."""
    return DeadlineExceeded("The request was not finished before its deadline and was cancelled.")


def no_worker() -> Overloaded:
    """Return the error for requests that come while no replica works."""
    return Overloaded(f"No replica is running. Try again in {RESTART_S:g} seconds.", retry_after=RESTART_S)
