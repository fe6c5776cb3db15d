"""The benchmark waits until its job runs, and ends with an error if the job ends early."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks import job_interference


def make_client(*jobs: dict[str, Any]) -> httpx.Client:
    """Return a client of a fake service that answers `GET /jobs/1` with `jobs`, one after the other."""
    answers: Iterator[dict[str, Any]] = iter(jobs)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": "/jobs/1"})
        return httpx.Response(200, json=next(answers))

    return httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer))


def job(state: str, done: int, problem: dict[str, str] | None = None) -> dict[str, Any]:
    return {"state": state, "done": done, "problem": problem}


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.job_interference.time.sleep", lambda seconds: None)


def test_a_job_has_started_after_20_steps() -> None:
    with make_client(job("queued", 0), job("running", 3), job("running", 20)) as client:
        assert job_interference.start_job(client) == "/jobs/1"


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (job("failed", 3, {"detail": "The device is out of memory."}), r"\(failed\): The device is out of memory\."),
        (job("cancelled", 0), r"\(cancelled\): no detail"),
        (job("succeeded", 20), "succeeded"),
    ],
)
def test_a_job_that_ends_early_ends_the_benchmark(last: dict[str, Any], message: str) -> None:
    with make_client(job("running", 3), last) as client, pytest.raises(SystemExit, match=message):
        job_interference.start_job(client)
