"""The benchmark beside a job waits for one that runs, and ends with one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks import beside


def service(*jobs: dict[str, Any]) -> httpx.Client:
    """Return a client of a service that tells of its job as `jobs` say, one after the other."""
    told: Iterator[dict[str, Any]] = iter(jobs)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": "/jobs/1"})
        return httpx.Response(200, json=next(told))

    return httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer))


def job(state: str, done: int, problem: dict[str, str] | None = None) -> dict[str, Any]:
    return {"state": state, "done": done, "problem": problem}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.beside.time.sleep", lambda seconds: None)


def test_a_job_has_started_when_it_takes_steps() -> None:
    with service(job("queued", 0), job("running", 3), job("running", 20)) as client:
        assert beside.started(client) == "/jobs/1"


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (job("failed", 3, {"detail": "The device is out of memory."}), "failed: The device is out of memory."),
        (job("cancelled", 0), "cancelled: it says no more"),
        (job("succeeded", 20), "succeeded"),
    ],
)
def test_a_job_that_is_over_too_early_ends_the_benchmark_with_its_problem(last: dict[str, Any], told: str) -> None:
    with service(job("running", 3), last) as client, pytest.raises(SystemExit, match=told):
        beside.started(client)
