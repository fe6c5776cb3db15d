"""A full disk heals without a restart: on a real file system of three megabytes."""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.errors import StorageFull
from app.jobs.job import Job
from app.jobs.reserve import RESERVE_BYTES, Reserve, uses_reserve
from app.jobs.store import JobStore, JobStoreError
from tests.app.jobs.test_store import LATE, LOST, TTL, Clock, get, make_job, queue
from tests.small_disk import fill, small_disk

PICTURE = bytes(300_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 3 * 2**20) as folder:
        yield folder


@pytest.fixture
def store(disk: Path, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(disk, ttl=TTL, clock=clock)
    store.open()
    yield store
    store.close()


def add_until_full(store: JobStore) -> list[Job]:
    """Queue jobs, as the service does, until the disk has no room for another."""
    jobs = []
    for _ in range(100):
        try:
            store.check_capacity(len(PICTURE))
            jobs.append(queue(store, PICTURE))
        except StorageFull:
            return jobs
    raise AssertionError("the disk never was full")


def finish(store: JobStore) -> Job:
    """Run the next job; its result replaces its input."""
    job = store.claim_next()
    assert job is not None
    job_files = store.files.find_inputs(job.id)
    result = job_files["image"].read_bytes()
    job_files["image"].unlink()
    store.files.save_result(job, result)
    assert store.succeed(job, {"digest": "", "size": len(result)}, len(result))
    return get(store, job)


def test_jobs_expire_on_a_full_disk_and_new_ones_succeed(store: JobStore, disk: Path, clock: Clock) -> None:
    jobs = add_until_full(store)
    assert len(jobs) >= 5
    fill(disk / "other")
    finished = [finish(store) for _ in jobs]
    clock.now += TTL + 1
    _, deletable = store.expire([], interrupted=LOST, late=LATE)
    assert sorted(deletable) == sorted(job.id for job in finished)
    for job_id in deletable:
        store.files.delete(job_id)
    (disk / "other").unlink()
    assert len(add_until_full(store)) >= len(jobs)


def test_jobs_can_be_cancelled_and_deleted_on_a_full_disk_again_and_again(store: JobStore, disk: Path) -> None:
    for _ in range(3):
        jobs = add_until_full(store)
        fill(disk / "other")
        for job in jobs:
            assert store.cancel(job.id)
            assert store.delete(job.id)
            store.files.delete(job.id)
        (disk / "other").unlink()


def test_the_reserve_is_for_what_makes_room_and_comes_back(store: JobStore, disk: Path) -> None:
    assert store.reserve.release()
    fill(disk / "other")
    assert not store.restore_reserve()
    with pytest.raises(StorageFull):
        store.check_capacity(1)
    (disk / "other").unlink()
    store.check_capacity(1)
    assert (disk / "reserve").stat().st_size == RESERVE_BYTES


def test_a_job_that_finds_no_room_is_not_added_and_leaves_no_file(store: JobStore, disk: Path) -> None:
    fill(disk / "other")
    new_job = make_job()
    with pytest.raises(StorageFull):
        store.files.save_inputs(new_job.id, {"image": io.BytesIO(PICTURE)})
    with pytest.raises(StorageFull):  # a small row may find room in pages that are begun
        store.add(make_job(digest="x" * 500_000), 1)
    assert (disk / "reserve").stat().st_size == RESERVE_BYTES
    assert list((disk / "jobs").iterdir()) == []


def test_a_result_that_finds_no_room_leaves_no_file(store: JobStore, disk: Path) -> None:
    queue(store)
    job = store.claim_next()
    assert job is not None
    fill(disk / "other")
    with pytest.raises(StorageFull):
        store.files.save_result(job, PICTURE)
    assert [path.name for path in (disk / "jobs" / job.id).iterdir()] == ["input-image"]
    assert store.fail(job, LOST)


def test_a_service_starts_on_a_full_disk(store: JobStore, disk: Path, clock: Clock) -> None:
    jobs = add_until_full(store)
    store.close()
    fill(disk / "other")
    again = JobStore(disk, ttl=TTL, clock=clock)
    again.open()
    assert again.cancel(jobs[0].id)
    again.close()


def test_without_a_reserve_it_says_why_it_does_not_start(disk: Path) -> None:
    fill(disk / "other")
    with pytest.raises(JobStoreError, match="cannot store jobs"):
        JobStore(disk).open()


def test_the_write_ahead_log_stays_small(store: JobStore, disk: Path) -> None:
    job = queue(store)
    for number in range(400):
        claimed = store.claim_next()
        assert claimed is not None
        assert store.renew(claimed, number, 400)
        assert store.release(claimed)
    assert get(store, job).state == "queued"
    assert sum(path.stat().st_size for path in disk.glob("jobs.sqlite3*")) < RESERVE_BYTES


def test_a_reserve_is_written_once_and_given_up_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path)
    assert not reserve.release()
    assert reserve.restore()
    assert reserve.restore()
    assert [path.name for path in tmp_path.iterdir()] == ["reserve"]
    with capture_logs() as logs:
        assert reserve.release()
        assert not reserve.release()
    assert [entry["event"] for entry in logs] == ["disk full, reserve released"]
    (tmp_path / "reserve").write_bytes(b"cut short by a crash")
    assert reserve.restore()
    assert (tmp_path / "reserve").stat().st_size == RESERVE_BYTES


def test_no_reserve_without_a_folder(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    assert not Reserve(tmp_path).restore()


@pytest.mark.parametrize(("code", "calls"), [(sqlite3.SQLITE_IOERR_WRITE, 2), (sqlite3.SQLITE_BUSY, 1)])
def test_an_exceeded_quota_uses_the_reserve_and_a_busy_table_does_not(tmp_path: Path, code: int, calls: int) -> None:
    error = sqlite3.OperationalError("as SQLite says")
    error.sqlite_errorcode = code

    class Table:
        reserve = Reserve(tmp_path)
        calls = 0

        @uses_reserve
        def write(self) -> None:
            self.calls += 1
            raise error

    table = Table()
    table.reserve.restore()
    with pytest.raises(sqlite3.OperationalError):
        table.write()
    assert table.calls == calls
