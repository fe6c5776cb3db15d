"""`kill -9` in the middle of ten jobs, and another start: none is lost, none is stuck, and what was there is there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.jobs.store import JobStore
from tests.app.api.service import file, opened
from tests.e2e.test_process import ROOT, Process, started

pytestmark = pytest.mark.tf

PUBLISHED = ROOT / "models" / "published"
OVER = ("succeeded", "failed", "cancelled")
JOBS = 10
SIDES = [320] * (JOBS - 1) + [1000]
"""Sides of their pictures. The last job is long, so that they cannot all be over between two looks at them."""


def noisy(number: int) -> bytes:
    """Return a picture of its own for a job, which takes the network a while."""
    chance, side = np.random.default_rng(number), SIDES[number]
    ramp = np.linspace(60, 180, side)[:, None, None] + number
    return file((ramp + chance.normal(0, 12, (side, side, 3))).clip(0, 255).astype(np.uint8))


def killed(running: Process) -> None:
    """End the process as the kernel does when there is no memory left."""
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.process.wait(20) == -signal.SIGKILL


def send(client: httpx.Client, number: int) -> str:
    answer = client.post(
        "/denoise",
        files={"image": noisy(number)},
        data={"strength": "0.2"},
        headers={"Prefer": "respond-async", "Idempotency-Key": f"job-{number}"},
    )
    assert answer.status_code == 202, answer.text
    return str(answer.headers["location"])


def states(client: httpx.Client, addresses: list[str]) -> list[dict[str, Any]]:
    return [client.get(address).raise_for_status().json() for address in addresses]


def all_over(client: httpx.Client, addresses: list[str]) -> list[dict[str, Any]]:
    """Return the jobs once all are over."""
    limit = time.monotonic() + 240
    while True:
        jobs = states(client, addresses)
        if all(job["state"] in OVER for job in jobs):
            return jobs
        assert time.monotonic() < limit, [(job["state"], job["place"], job["done"], job["all"]) for job in jobs]
        time.sleep(0.2)


def crash(folder: Path, finished: int, after: float) -> None:
    """Kill the service in a job, `after` seconds into it, once so many have finished; look at what the next finds."""
    told = {"RESTORE_DATA_DIR": str(folder), "RESTORE_PRELOAD": "denoise/photo"}
    with started(PUBLISHED, **told) as running:
        running.until("serving on")
        addresses = [send(running.client, number) for number in range(JOBS)]
        kept: dict[str, bytes] = {}
        limit = time.monotonic() + 240
        while True:
            jobs = states(running.client, addresses)
            for job in jobs:
                if job["state"] == "succeeded" and job["id"] not in kept:
                    kept[job["id"]] = running.client.get(job["links"]["result"]).content
            if len(kept) >= finished and any(job["state"] == "running" for job in jobs):
                break
            assert len(kept) < JOBS, "all were done before the end came"
            assert time.monotonic() < limit
            time.sleep(0.02)
        time.sleep(after)
        killed(running)
    with started(PUBLISHED, **told) as running:
        running.until("serving on")
        # Whoever was not told how it went asks again, and gets the same job.
        for number, address in enumerate(addresses):
            again = running.client.post(
                "/denoise",
                files={"image": noisy(number)},
                data={"strength": "0.2"},
                headers={"Prefer": "wait=0", "Idempotency-Key": f"job-{number}"},
            )
            assert again.status_code in (200, 202)
            if again.status_code == 202:
                assert again.headers["location"] == address
        jobs = all_over(running.client, addresses)
        for number, job in enumerate(jobs):
            assert job["state"] == "succeeded", job["problem"]
            result = running.client.get(job["links"]["result"])
            assert result.status_code == 200
            before, after = opened(noisy(number)), opened(result.content)
            assert after.shape == before.shape
            assert after.std(axis=1).mean() < before.std(axis=1).mean() / 2
            assert kept.get(job["id"], result.content) == result.content
        code, errors = running.end()
        assert code == 0, errors
        assert "Traceback" not in errors
    files = list(folder.glob("jobs/*/*"))
    assert len(files) == JOBS
    assert {path.name.partition("-")[0] for path in files} == {"result"}


@pytest.mark.timeout(600)
def test_ten_jobs_outlive_a_kill(tmp_path: Path) -> None:
    crash(tmp_path, finished=2, after=0.2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", range(10))
def test_ten_jobs_outlive_a_kill_at_any_moment(tmp_path: Path, number: int) -> None:
    crash(tmp_path, finished=number % 5 * 2, after=number / 20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_ends_the_service_each_time_is_given_up_with_its_reason(tmp_path: Path) -> None:
    told = {"RESTORE_DATA_DIR": str(tmp_path), "RESTORE_PRELOAD": "denoise/photo"}
    address = ""
    for _ in range(3):
        with started(PUBLISHED, **told) as running:
            running.until("serving on")
            address = address or send(running.client, JOBS - 1)
            limit = time.monotonic() + 60
            while running.client.get(address).json()["state"] != "running":
                assert time.monotonic() < limit
                time.sleep(0.01)
            killed(running)
    with started(PUBLISHED, **told) as running:
        running.until("serving on")
        (job,) = all_over(running.client, [address])
        assert job["state"] == "failed"
        assert job["problem"]["type"] == "/problems/job-interrupted"
        assert running.client.get(f"{address}/result").status_code == 500


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_in_the_middle_queues_the_job_again_at_once(tmp_path: Path) -> None:
    told = {"RESTORE_DATA_DIR": str(tmp_path), "RESTORE_PRELOAD": "denoise/photo"}
    with started(PUBLISHED, **told) as running:
        running.until("warm after")
        addresses = [send(running.client, number) for number in (JOBS - 1, 0, 1)]
        limit = time.monotonic() + 60
        while not states(running.client, addresses)[0]["done"]:
            assert time.monotonic() < limit
            time.sleep(0.01)
        code, errors = running.end()
        assert code == 0, errors
    store = JobStore(tmp_path)
    store.open()
    jobs = [store.get(address.rpartition("/")[2]) for address in addresses]
    store.close()
    assert [(job.state, job.attempts) for job in jobs if job] == [("queued", 0)] * 3
    with started(PUBLISHED, **told) as running:
        running.until("serving on")
        assert [job["state"] for job in all_over(running.client, addresses)] == ["succeeded"] * 3
