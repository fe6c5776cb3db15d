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
from app.jobs.store import LEASE_S, Job, NewJob, Store
from app.jobs.worker import Result, Worker


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than in service, so that the tests are quick."""
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    monkeypatch.setattr(module, "LOOK_S", 0.02)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Work:
    """What jobs do here: each waits until its gate opens and gives its picture back, or what it is told to raise."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: list[str] = []
        self.here = self.most = 0
        self.errors: dict[str, Exception] = {}

    async def __call__(self, job: Job, files: Mapping[str, Path], progress: Progress) -> Result:
        self.begun.append(job.id)
        self.here += 1
        self.most = max(self.most, self.here)
        try:
            progress.expect(4)
            progress.step()
            await self.gate.wait()
            if job.id in self.errors:
                raise self.errors[job.id]
            return Result(files["image"].read_bytes(), {"headers": {}})
        finally:
            self.here -= 1


def explain(error: Exception) -> dict[str, Any]:
    return {"type": type(error).__name__, "detail": error.detail if isinstance(error, ServiceError) else ""}


@asynccontextmanager
async def working(folder: Path, work: Work, clock: Clock | None = None, **limits: Any) -> AsyncIterator[Worker]:
    store = Store(folder, clock=clock or Clock(), **limits)
    worker = Worker(store, work, explain)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def queued(worker: Worker, data: bytes = b"picture") -> str:
    order = NewJob("a", "denoise", {"form": {}}, "")
    worker.store.receive(order.id, {"image": io.BytesIO(data)})
    await worker.ask(worker.store.add, order, len(data))
    worker.wake()
    return order.id


async def until(worker: Worker, job: str, *states: str) -> Job:
    """Return the job once it is in one of these states."""
    async with asyncio.timeout(10):
        with worker.watching(job) as happened:
            while True:
                now = await worker.ask(worker.store.get, job)
                assert now is not None
                if now.state in states:
                    return now
                with suppress(TimeoutError):  # another process is not heard
                    async with asyncio.timeout(0.05):
                        await happened.wait()
                happened.clear()


async def soon(there: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await there():
            await asyncio.sleep(0.005)


def scenario(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(limited())


def test_jobs_run_one_after_the_other_and_leave_their_results_alone(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work) as worker:
            jobs = [await queued(worker, str(number).encode()) for number in range(5)]
            await until(worker, jobs[0], "running")
            assert (await until(worker, jobs[4], "queued")).place == 4
            work.gate.set()
            for number, job in enumerate(jobs):
                done = await until(worker, job, "succeeded")
                assert worker.store.result(done).read_bytes() == str(number).encode()
                assert (done.done, done.steps) == (4, 4)
                assert (done.result or {})["size"] == 1
            assert (work.begun, work.most) == (jobs, 1)
            await soon(lambda: worker.ask(lambda: worker.counts == {"succeeded": 5}))
            files = [path for job in jobs for path in (tmp_path / "jobs" / job).iterdir()]
            assert len(files) == 5  # no picture is kept
        assert worker.ended == {"succeeded": 5}

    scenario(run)


def test_progress_is_seen_while_it_runs(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work) as worker:
            job = await queued(worker)

            async def one_of_four() -> bool:
                now = await until(worker, job, "running", "queued")
                return (now.done, now.steps) == (1, 4)

            await soon(one_of_four)

    scenario(run)


def test_a_failure_is_kept_with_its_reason_and_the_next_runs(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work) as worker:
            refused, broken, fine = [await queued(worker) for _ in range(3)]
            work.errors = {refused: BrokenImage("It is cut short."), broken: ZeroDivisionError("0x7f")}
            work.gate.set()
            assert (await until(worker, refused, "failed")).problem == {
                "type": "BrokenImage",
                "detail": "It is cut short.",
            }
            assert (await until(worker, broken, "failed")).problem == {"type": "ZeroDivisionError", "detail": ""}
            await until(worker, fine, "succeeded")
            await soon(lambda: worker.ask(lambda: not (tmp_path / "jobs" / broken).exists()))

    scenario(run)


def test_cancelling_ends_exactly_one(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work) as worker:
            first, second, third = [await queued(worker) for _ in range(3)]
            await soon(lambda: asyncio.sleep(0, work.begun == [first]))
            assert await worker.cancel(second)
            assert not await worker.cancel(second)
            assert not (tmp_path / "jobs" / second).exists()
            assert await worker.cancel(first)
            await soon(lambda: asyncio.sleep(0, third in work.begun))
            assert work.here == 1
            work.gate.set()
            await until(worker, third, "succeeded")
            assert work.begun == [first, third]
            for job in (first, second):
                assert (await until(worker, job, "cancelled")).problem is None
            assert await worker.erase(third)
            assert not await worker.erase(third)
            assert not any((tmp_path / "jobs").iterdir())
        assert worker.ended == {"cancelled": 2, "succeeded": 1}

    scenario(run)


def test_a_stop_queues_what_runs_and_the_next_start_does_it(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work) as worker:
            jobs = [await queued(worker) for _ in range(2)]
            await until(worker, jobs[0], "running")
        assert work.here == 0
        store = Store(tmp_path, clock=Clock())
        store.open()
        assert [(job.state, job.attempts) for job in map(store.get, jobs) if job] == [("queued", 0), ("queued", 0)]
        store.close()
        again = Work()
        again.gate.set()
        async with working(tmp_path, again) as worker:
            for job in jobs:
                assert (await until(worker, job, "succeeded")).attempts == 1

    scenario(run)


def test_a_worker_that_lost_its_lease_stops_and_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        clock, slept, alive = Clock(), Work(), Work()
        async with working(tmp_path, slept, clock) as first:
            job = await queued(first)

            async def told() -> bool:
                return (await until(first, job, "queued", "running")).done == 1

            await soon(told)  # so that the next renewal is seconds away
            store = Store(tmp_path, clock=clock)
            other = Worker(store, alive, explain)
            await other.start()
            clock.now += 3 * LEASE_S  # the other one finds the lease over before the first one has renewed it
            await soon(lambda: asyncio.sleep(0, alive.here == 1))
            await soon(lambda: asyncio.sleep(0, slept.here == 0))
            slept.gate.set()
            alive.gate.set()
            done = await until(other, job, "succeeded")
            assert done.attempts == 2
            assert store.result(done).read_bytes() == b"picture"
            await other.stop()
        assert first.ended == {}
        assert other.ended == {"succeeded": 1}

    scenario(run)


def test_two_processes_do_each_job_once(tmp_path: Path) -> None:
    async def run() -> None:
        one, two = Work(), Work()
        one.gate.set()
        two.gate.set()
        async with working(tmp_path, one) as first, working(tmp_path, two) as second:
            jobs = [await queued(worker) for _ in range(10) for worker in (first, second)]
            for job in jobs:
                await until(second, job, "succeeded")
        assert sorted(one.begun + two.begun) == sorted(jobs)
        assert one.begun
        assert two.begun

    scenario(run)


def test_a_result_that_there_is_no_room_for_is_a_failure(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work, most_bytes=20_000) as worker:
            job = await queued(worker, b"x" * 10_000)
            work.gate.set()
            assert (await until(worker, job, "failed")).problem == {
                "type": "StorageFull",
                "detail": "There is no room left for the pictures and results of jobs.",
            }

    scenario(run)


def test_a_start_erases_what_an_end_in_the_middle_left(tmp_path: Path) -> None:
    async def run() -> None:
        work = Work()
        work.gate.set()
        async with working(tmp_path, work, ttl=1e10) as worker:
            job = await queued(worker)
            done = await until(worker, job, "succeeded")
        (tmp_path / "jobs" / job / "input-image").write_bytes(b"left")
        (tmp_path / "jobs" / job / "result-0.draft").write_bytes(b"left")
        worker.store.receive("0" * 32, {"image": io.BytesIO(b"left")})
        later = Clock()
        later.now = 4e9  # long after the files were written
        async with working(tmp_path, work, later, ttl=1e10) as worker:
            await soon(lambda: worker.ask(lambda: not (tmp_path / "jobs" / ("0" * 32)).exists()))
        files = [path.name for path in (tmp_path / "jobs" / job).iterdir()]
        assert files == [worker.store.result(done).name]

    scenario(run)


def test_files_that_somebody_else_erased_hold_up_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        work = Work()
        work.gate.set()
        async with working(tmp_path, work) as worker:
            await until(worker, gone := await queued(worker), "succeeded")
        shutil.rmtree(tmp_path / "jobs" / gone)
        async with working(tmp_path, work) as worker:
            await until(worker, await queued(worker), "succeeded")
        # Nor do files that cannot be erased.
        monkeypatch.setattr(Store, "leftovers", Mock(side_effect=PermissionError("not yours")))
        async with working(tmp_path, work) as worker:
            await until(worker, await queued(worker), "succeeded")

    scenario(run)


def test_a_lease_that_cannot_be_renewed_for_a_while_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        work = Work()
        async with working(tmp_path, work) as worker:
            renew, troubles = worker.store.renew, iter([sqlite3.OperationalError("disk I/O error")] * 3)

            def troubled(job: Job, done: int, steps: int) -> bool:
                error = next(troubles, None)
                if error:
                    raise error
                return renew(job, done, steps)

            monkeypatch.setattr(worker.store, "renew", troubled)
            first, second = await queued(worker), await queued(worker)

            async def seen() -> bool:
                job = await worker.ask(worker.store.get, first)
                return job is not None and job.done == 1

            await soon(seen)
            assert work.begun == [first]  # one at a time
            work.gate.set()
            for job in (first, second):
                await until(worker, job, "succeeded")
            assert work.begun == [first, second]

    scenario(run)


def test_a_database_in_trouble_stops_nothing_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        work = Work()
        work.gate.set()
        async with working(tmp_path, work) as worker:
            take, troubles = worker.store.take, iter([OSError("disk")] * 3)

            def troubled() -> Job | None:
                error = next(troubles, None)
                if error:
                    raise error
                return take()

            monkeypatch.setattr(worker.store, "take", troubled)
            job = await queued(worker)
            await until(worker, job, "succeeded")
            assert next(troubles, None) is None

    scenario(run)
