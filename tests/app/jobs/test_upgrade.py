"""A job database written by version 0.1: its finished jobs can be read and its queued jobs run."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.protocol import Progress
from app.jobs.job import Job
from app.jobs.store import JobStore
from app.jobs.worker import JobResult, Worker
from tests.app.api.service import file, gradient, opened, serving

SCHEMA_0_1 = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    task TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    expires REAL,
    deadline REAL,
    key TEXT,
    digest TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    lease TEXT,
    lease_until REAL,
    problem TEXT,
    result TEXT,
    bytes INTEGER NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE UNIQUE INDEX jobs_by_key ON jobs (client, key) WHERE key IS NOT NULL;
PRAGMA user_version = 1;
"""
SUCCEEDED, FAILED, RUNNING, QUEUED = "a" * 32, "b" * 32, "c" * 32, "d" * 32
REQUEST = {"form": {"strength": "0.3", "format": "png"}, "names": {"image": "cat.png"}, "accept": None}
PROBLEM = {"type": "/problems/broken-image", "title": "The picture cannot be read", "status": 422, "detail": "Cut."}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data folder as version 0.1 left it: one job each succeeded, failed, interrupted and queued."""
    now, picture = time.time(), file(gradient())
    result = {
        "headers": {"content-type": "image/png", "x-model": "denoise/photo@1"},
        "digest": "0123456789abcdef" * 4,
        "size": len(picture),
    }
    common = {
        "client": "127.0.0.1",
        "task": "denoise",
        "request": json.dumps(REQUEST),
        "digest": "",
        "bytes": 1,
    }
    ended = {"started": now - 50, "finished": now - 40, "expires": now + 1000, "attempts": 1}
    rows: list[dict[str, Any]] = [
        {"id": SUCCEEDED, "state": "succeeded", "lease": "1" * 16, "result": json.dumps(result), "key": "k", **ended},
        {"id": FAILED, "state": "failed", "problem": json.dumps(PROBLEM), **ended},
        {"id": RUNNING, "state": "running", "lease": "2" * 16, "lease_until": now - 1, "attempts": 1},
        {"id": QUEUED, "state": "queued"},
    ]
    database = sqlite3.connect(tmp_path / "jobs.sqlite3")
    database.executescript(SCHEMA_0_1)
    for row in rows:
        values = {"created": now - 60, **common, **row}
        columns, marks = ", ".join(values), ", ".join("?" * len(values))
        database.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", list(values.values()))
    database.commit()
    database.close()
    for job_id, name in ((SUCCEEDED, f"result-{'1' * 16}"), (RUNNING, "input-image"), (QUEUED, "input-image")):
        (tmp_path / "jobs" / job_id).mkdir(parents=True)
        (tmp_path / "jobs" / job_id / name).write_bytes(picture)
    return tmp_path


def test_the_store_reads_and_runs_the_jobs_of_0_1(data_dir: Path) -> None:
    async def run(job: Job, files: Mapping[str, Path], progress: Progress) -> JobResult:
        assert job.request == REQUEST
        return JobResult(files["image"].read_bytes(), {"headers": {}})

    async def work() -> dict[str, Job]:
        store = JobStore(data_dir)
        worker = Worker(store, run, lambda error: {"detail": str(error)})
        await worker.start()
        try:
            async with asyncio.timeout(20):
                while (await worker.call(store.count_by_state)).get("succeeded") != 3:
                    await asyncio.sleep(0.01)
            jobs = [await worker.call(store.get, job_id) for job_id in (SUCCEEDED, FAILED, RUNNING, QUEUED)]
            assert await worker.call(store.find_by_key, "127.0.0.1", "k") == jobs[0]
            for job in jobs:
                if job is not None and job.state == "succeeded":
                    assert store.files.result_path(job).read_bytes() == file(gradient())
            return {job.id: job for job in jobs if job is not None}
        finally:
            await worker.stop()

    jobs = asyncio.run(work())
    assert jobs[FAILED].problem == PROBLEM
    assert (jobs[SUCCEEDED].result or {})["headers"]["content-type"] == "image/png"
    assert [jobs[job_id].attempts for job_id in (SUCCEEDED, FAILED, RUNNING, QUEUED)] == [1, 1, 2, 1]


def test_the_service_answers_and_runs_the_jobs_of_0_1(data_dir: Path) -> None:
    with serving(data_dir=data_dir) as service:
        for job_id in (RUNNING, QUEUED):
            limit = time.monotonic() + 20
            while service.client.get(f"/jobs/{job_id}").json()["state"] in ("queued", "running"):
                assert time.monotonic() < limit
                time.sleep(0.01)
        for job_id in (SUCCEEDED, RUNNING, QUEUED):
            assert service.client.get(f"/jobs/{job_id}").json()["options"] == REQUEST["form"]
            answer = service.client.get(f"/jobs/{job_id}/result")
            assert answer.status_code == 200, answer.text
            np.testing.assert_allclose(opened(answer.content).astype(int), gradient().astype(int), atol=1)
        failed = service.client.get(f"/jobs/{FAILED}")
        assert (failed.json()["state"], failed.json()["problem"]["detail"]) == ("failed", "Cut.")
        assert service.client.get(f"/jobs/{FAILED}/result").status_code == 422
