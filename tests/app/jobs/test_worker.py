from __future__ import annotations

import asyncio
import io
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from app.engine.protocol import Progress
from app.errors import BrokenImage, ServiceError
from app.jobs import worker as module
from app.jobs.files import JobFiles, storage_full
from app.jobs.job import Job, NewJob
from app.jobs.store import LEASE_S, JobStore
from app.jobs.worker import JobResult, Worker


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll more often than in production, so that the tests are fast."""
    monkeypatch.setattr(module, "PROGRESS_S", 0.01)
    monkeypatch.setattr(module, "POLL_S", 0.02)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Work:
    """A fake run: waits for `gate`, then returns the input picture or raises the error set in `errors`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started: list[str] = []
        self.active = self.max_active = 0
        self.errors: dict[str, Exception] = {}

    async def __call__(self, job: Job, files: Mapping[str, Path], progress: Progress) -> JobResult:
        self.started.append(job.id)
        self.active += 1
        self.max_active = max(self.max_active, self.active)
        try:
            progress.expect(4)
            progress.step()
            await self.gate.wait()
            if job.id in self.errors:
                raise self.errors[job.id]
            return JobResult(files["image"].read_bytes(), {"headers": {}})
        finally:
            self.active -= 1


def describe_error(error: Exception) -> dict[str, Any]:
    return {"type": type(error).__name__, "detail": error.detail if isinstance(error, ServiceError) else ""}


@asynccontextmanager
async def running_worker(folder: Path, work: Work, clock: Clock | None = None, **limits: Any) -> AsyncIterator[Worker]:
    store = JobStore(folder, clock=clock or Clock(), **limits)
    worker = Worker(store, work, describe_error)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def queue(worker: Worker, data: bytes = b"picture") -> str:
    new_job = NewJob("a", "denoise", {"form": {}}, "")
    worker.store.files.save_inputs(new_job.id, {"image": io.BytesIO(data)})
    await worker.call(worker.store.add, new_job, len(data))
    worker.wake()
    return new_job.id


async def wait_for_state(worker: Worker, job: str, *states: str) -> Job:
    """Return the job once it is in one of these states."""
    async with asyncio.timeout(10):
        with worker.watch(job) as happened:
            while True:
                now = await worker.call(worker.store.get, job)
                assert now is not None
                if now.state in states:
                    return now
                with suppress(TimeoutError):  # another process does not set the event
                    async with asyncio.timeout(0.05):
                        await happened.wait()
                happened.clear()


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)


def scenario(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(limited())


def test_jobs_run_in_order_and_keep_only_their_results(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work) as worker:
            jobs = [await queue(worker, str(number).encode()) for number in range(5)]
            await wait_for_state(worker, jobs[0], "running")
            assert (await wait_for_state(worker, jobs[4], "queued")).place == 4
            work.gate.set()
            for number, job in enumerate(jobs):
                done = await wait_for_state(worker, job, "succeeded")
                assert worker.store.files.result_path(done).read_bytes() == str(number).encode()
                assert (done.done, done.steps) == (4, 4)
                assert (done.result or {})["size"] == 1
            assert (work.started, work.max_active) == (jobs, 1)
            await wait_until(lambda: worker.call(lambda: worker.counts == {"succeeded": 5}))
            files = [path for job in jobs for path in (tmp_path / "jobs" / job).iterdir()]
            assert len(files) == 5  # no picture is kept
        assert worker.finished_counts == {"succeeded": 5}

    scenario(run)


def test_progress_is_recorded_while_a_job_runs(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work) as worker:
            job = await queue(worker)

            async def one_of_four() -> bool:
                now = await wait_for_state(worker, job, "running", "queued")
                return (now.done, now.steps) == (1, 4)

            await wait_until(one_of_four)

    scenario(run)


def test_a_failure_is_stored_and_the_next_job_runs(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work) as worker:
            refused, broken, fine = [await queue(worker) for _ in range(3)]
            work.errors = {refused: BrokenImage("It is cut short."), broken: ZeroDivisionError("0x7f")}
            work.gate.set()
            assert (await wait_for_state(worker, refused, "failed")).problem == {
                "type": "BrokenImage",
                "detail": "It is cut short.",
            }
            assert (await wait_for_state(worker, broken, "failed")).problem == {
                "type": "ZeroDivisionError",
                "detail": "",
            }
            await wait_for_state(worker, fine, "succeeded")
            await wait_until(lambda: worker.call(lambda: not (tmp_path / "jobs" / broken).exists()))

    scenario(run)


def test_the_oldest_queued_job_is_timed_and_one_that_is_too_late_counts_as_failed(tmp_path: Path) -> None:
    async def run() -> None:
        work, clock = Work(), Clock()
        async with running_worker(tmp_path, work, clock) as worker:
            running = await queue(worker)
            await wait_for_state(worker, running, "running")
            clock.now += 2
            late = NewJob("a", "denoise", {"form": {}}, "", deadline=clock.now + 5)
            worker.store.files.save_inputs(late.id, {"image": io.BytesIO(b"picture")})
            await worker.call(worker.store.add, late, 7)
            worker.wake()
            await wait_until(lambda: worker.call(lambda: worker.counts.get("queued") == 1))
            clock.now += 4
            assert worker.oldest_queued_seconds == 4
            clock.now += 1
            worker.wake()
            await wait_for_state(worker, late.id, "failed")
            await wait_until(lambda: worker.call(lambda: worker.finished_counts == {"failed": 1}))
            await wait_until(lambda: worker.call(lambda: worker.oldest_queued_seconds == 0))

    scenario(run)


def test_cancel_ends_only_that_job(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work) as worker:
            first, second, third = [await queue(worker) for _ in range(3)]
            await wait_until(lambda: asyncio.sleep(0, work.started == [first]))
            assert await worker.cancel(second)
            assert not await worker.cancel(second)
            assert not (tmp_path / "jobs" / second).exists()
            assert await worker.cancel(first)
            await wait_until(lambda: asyncio.sleep(0, third in work.started))
            assert work.active == 1
            work.gate.set()
            await wait_for_state(worker, third, "succeeded")
            assert work.started == [first, third]
            for job in (first, second):
                assert (await wait_for_state(worker, job, "cancelled")).problem is None
            assert await worker.delete(third)
            assert not await worker.delete(third)
            assert not any((tmp_path / "jobs").iterdir())
        assert worker.finished_counts == {"cancelled": 2, "succeeded": 1}

    scenario(run)


def test_a_stop_queues_running_jobs_for_the_next_start(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work) as worker:
            jobs = [await queue(worker) for _ in range(2)]
            await wait_for_state(worker, jobs[0], "running")
        assert work.active == 0
        store = JobStore(tmp_path, clock=Clock())
        store.open()
        assert [(job.state, job.attempts) for job in map(store.get, jobs) if job] == [("queued", 0), ("queued", 0)]
        store.close()
        again = Work()
        again.gate.set()
        async with running_worker(tmp_path, again) as worker:
            for job in jobs:
                assert (await wait_for_state(worker, job, "succeeded")).attempts == 1

    scenario(run)


def test_a_worker_that_lost_its_lease_stops_and_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        clock, slept, alive = Clock(), Work(), Work()
        async with running_worker(tmp_path, slept, clock) as first:
            job = await queue(first)

            async def told() -> bool:
                return (await wait_for_state(first, job, "queued", "running")).done == 1

            await wait_until(told)  # so that the next renewal is seconds away
            store = JobStore(tmp_path, clock=clock)
            other = Worker(store, alive, describe_error)
            await other.start()
            clock.now += 3 * LEASE_S  # the other one finds the lease over before the first one has renewed it
            await wait_until(lambda: asyncio.sleep(0, alive.active == 1))
            await wait_until(lambda: asyncio.sleep(0, slept.active == 0))
            slept.gate.set()
            alive.gate.set()
            done = await wait_for_state(other, job, "succeeded")
            assert done.attempts == 2
            assert store.files.result_path(done).read_bytes() == b"picture"
            await other.stop()
        assert first.finished_counts == {}
        assert other.finished_counts == {"succeeded": 1}

    scenario(run)


def test_two_processes_run_each_job_once(tmp_path: Path) -> None:
    async def run() -> None:
        one, two = Work(), Work()
        one.gate.set()
        two.gate.set()
        async with running_worker(tmp_path, one) as first, running_worker(tmp_path, two) as second:
            jobs = [await queue(worker) for _ in range(10) for worker in (first, second)]
            for job in jobs:
                await wait_for_state(second, job, "succeeded")
        assert sorted(one.started + two.started) == sorted(jobs)
        assert one.started
        assert two.started

    scenario(run)


def test_a_result_that_exceeds_the_disk_limit_fails_the_job(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work, max_bytes=20_000) as worker:
            job = await queue(worker, b"x" * 10_000)
            work.gate.set()
            assert (await wait_for_state(worker, job, "failed")).problem == {
                "type": "StorageFull",
                "detail": storage_full().detail,
            }

    scenario(run)


def test_a_start_deletes_the_files_that_a_crash_left(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        work.gate.set()
        async with running_worker(tmp_path, work, ttl=1e10) as worker:
            job = await queue(worker)
            done = await wait_for_state(worker, job, "succeeded")
        (tmp_path / "jobs" / job / "input-image").write_bytes(b"left")
        (tmp_path / "jobs" / job / "result-0.draft").write_bytes(b"left")
        worker.store.files.save_inputs("0" * 32, {"image": io.BytesIO(b"left")})
        later = Clock()
        later.now = 4e9  # long after the files were written
        async with running_worker(tmp_path, work, later, ttl=1e10) as worker:
            await wait_until(lambda: worker.call(lambda: not (tmp_path / "jobs" / ("0" * 32)).exists()))
        files = [path.name for path in (tmp_path / "jobs" / job).iterdir()]
        assert files == [worker.store.files.result_path(done).name]

    scenario(run)


def test_errors_while_deleting_files_do_not_stop_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        work = Work()
        work.gate.set()
        async with running_worker(tmp_path, work) as worker:
            await wait_for_state(worker, gone := await queue(worker), "succeeded")
        shutil.rmtree(tmp_path / "jobs" / gone)
        async with running_worker(tmp_path, work) as worker:
            await wait_for_state(worker, await queue(worker), "succeeded")
        # Nor do files that cannot be erased.
        monkeypatch.setattr(JobFiles, "find_old_folders", Mock(side_effect=PermissionError("not yours")))
        async with running_worker(tmp_path, work) as worker:
            await wait_for_state(worker, await queue(worker), "succeeded")

    scenario(run)


def test_errors_while_renewing_a_lease_do_not_stop_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        work = Work()
        async with running_worker(tmp_path, work) as worker:
            renew, errors_left = worker.store.renew, iter([sqlite3.OperationalError("disk I/O error")] * 3)

            def failing(job: Job, done: int, steps: int) -> bool:
                error = next(errors_left, None)
                if error:
                    raise error
                return renew(job, done, steps)

            monkeypatch.setattr(worker.store, "renew", failing)
            first, second = await queue(worker), await queue(worker)

            async def seen() -> bool:
                job = await worker.call(worker.store.get, first)
                return job is not None and job.done == 1

            await wait_until(seen)
            assert work.started == [first]  # one at a time
            work.gate.set()
            for job in (first, second):
                await wait_for_state(worker, job, "succeeded")
            assert work.started == [first, second]

    scenario(run)


def test_database_errors_do_not_stop_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        work = Work()
        work.gate.set()
        async with running_worker(tmp_path, work) as worker:
            claim_next, errors_left = worker.store.claim_next, iter([OSError("disk")] * 3)

            def failing() -> Job | None:
                error = next(errors_left, None)
                if error:
                    raise error
                return claim_next()

            monkeypatch.setattr(worker.store, "claim_next", failing)
            job = await queue(worker)
            await wait_for_state(worker, job, "succeeded")
            assert next(errors_left, None) is None

    scenario(run)
