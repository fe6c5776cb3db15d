from __future__ import annotations

import pytest

from app.engine.admission_queue import AdmissionQueue
from app.engine.protocol import BACKGROUND, InferenceRequest, RequestContext, Usage
from app.errors import DeadlineExceeded, Overloaded, ServiceError, ShuttingDown
from tests.engines import request

TILE = 64e-6
"""Megapixels of one request."""


def enter(queue: AdmissionQueue, one: InferenceRequest, *, workers: int = 1, waiting_pixels: int | None = None) -> None:
    pixels = queue.pixels if waiting_pixels is None else waiting_pixels
    queue.enter(one, waiting_pixels=pixels, seconds_ahead=lambda: 2.5, workers=workers)


def probe(context: RequestContext) -> InferenceRequest:
    return InferenceRequest("denoise/identity@1", "denoise", {}, context, 64)


def test_a_full_queue_says_when_to_try_again_and_takes_requests_when_others_have_left() -> None:
    queue = AdmissionQueue(2 * TILE)
    first, second, third = (request(value) for value in range(3))
    enter(queue, first)
    enter(queue, second)
    with pytest.raises(Overloaded, match=r"The queue is full. Try again in 2.5 seconds.") as caught:
        enter(queue, third)
    assert caught.value.retry_after == 2.5
    assert (queue.count, queue.pixels) == (2, 128)
    queue.leave(first)
    enter(queue, third)
    assert queue.rejections == {"overloaded": 1}


def test_the_age_of_the_oldest_request_is_measured() -> None:
    now = 100.0
    queue = AdmissionQueue(1, clock=lambda: now)
    assert queue.oldest_seconds == 0
    first, second = request(1), request(2)
    enter(queue, first)
    now += 3
    enter(queue, second)
    now += 2
    assert queue.oldest_seconds == 5
    queue.leave(first)
    assert queue.oldest_seconds == 2
    queue.leave(second)
    assert queue.oldest_seconds == 0


def test_one_request_larger_than_the_limit_is_taken_when_nothing_waits() -> None:
    enter(AdmissionQueue(TILE / 2), request())


def test_each_worker_adds_to_the_limit_and_without_one_nothing_is_taken() -> None:
    queue = AdmissionQueue(TILE)
    for value in range(2):
        enter(queue, request(value), workers=2)
    with pytest.raises(Overloaded, match="The queue is full"):
        enter(queue, request(2), workers=2)
    with pytest.raises(Overloaded, match="No replica is running"):
        enter(queue, probe(RequestContext("probe", probe=True)), workers=0)
    assert queue.count == 2


@pytest.mark.parametrize(
    "context",
    [
        RequestContext("probe", probe=True),
        RequestContext("job", weight=BACKGROUND),
        RequestContext("begun", usage=Usage(0.5)),
        RequestContext("first"),
    ],
)
def test_probes_jobs_and_requests_that_have_begun_are_not_refused_for_a_full_queue(context: RequestContext) -> None:
    queue = AdmissionQueue(TILE)
    enter(queue, request(0, request_id="first"))
    enter(queue, probe(context))
    queue.leave(probe(context))
    with pytest.raises(Overloaded):
        enter(queue, request(1))


@pytest.mark.parametrize(
    ("closing", "deadline", "error", "reason"),
    [(True, 2000.0, ShuttingDown, "shutting-down"), (False, 1000.0, DeadlineExceeded, "deadline-exceeded")],
)
def test_nothing_is_taken_after_closing_or_after_its_deadline(
    closing: bool, deadline: float, error: type[ServiceError], reason: str
) -> None:
    queue = AdmissionQueue(TILE, clock=lambda: 1000.0)
    queue.closing = closing
    with pytest.raises(error):
        enter(queue, probe(RequestContext("probe", deadline=deadline, probe=True)))
    assert queue.rejections == {reason: 1}
    assert queue.count == 0
