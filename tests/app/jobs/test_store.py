from __future__ import annotations

import errno
import io
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from app.errors import JobsFull, StorageFull
from app.jobs import store as module
from app.jobs.files import ORPHAN_AGE_S
from app.jobs.job import Job, NewJob
from app.jobs.store import LEASE_S, MAX_ATTEMPTS, ROW_BYTES, JobStore, JobStoreError
from tests.walk import STEPS, walk

TTL = 100.0
LOST, LATE = {"type": "/problems/lost"}, {"type": "/problems/late"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(tmp_path, max_jobs=4, max_bytes=100_000, ttl=TTL, clock=clock)
    opened.open()
    yield opened
    opened.close()


def make_job(client: str = "a", **rest: Any) -> NewJob:
    return NewJob(client, "denoise", {"form": {}}, rest.pop("digest", ""), **rest)


def queue(store: JobStore, data: bytes = b"picture", **rest: Any) -> Job:
    """Queue a job as the service does: files first, then the row."""
    new_job = make_job(**rest)
    store.files.save_inputs(new_job.id, {"image": io.BytesIO(data)})
    job, fresh = store.add(new_job, len(data))
    assert fresh
    return job


def expire(store: JobStore, *held_leases: str) -> tuple[list[str], list[str]]:
    return store.expire(held_leases, interrupted=LOST, late=LATE)


def claim(store: JobStore) -> Job:
    job = store.claim_next()
    assert job is not None
    return job


def get(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def test_a_job_from_queued_to_succeeded_and_its_files(store: JobStore, clock: Clock, tmp_path: Path) -> None:
    job = queue(store, b"\0" * 500)
    assert (job.state, job.place, job.created) == ("queued", 1, clock.now)
    assert [path.read_bytes() for path in store.files.find_inputs(job.id).values()] == [b"\0" * 500]
    clock.now += 5
    mine = claim(store)
    assert (mine.id, mine.state, mine.started, mine.place) == (job.id, "running", clock.now, None)
    assert store.claim_next() is None
    assert store.renew(mine, 3, 12)
    assert (get(store, job).done, get(store, job).steps) == (3, 12)
    digest = store.files.save_result(mine, b"result")
    assert store.succeed(mine, {"digest": digest}, 6, 12)
    after = get(store, job)
    store.files.cleanup(after)
    assert (after.state, after.finished, after.expires) == ("succeeded", clock.now, clock.now + TTL)
    assert (after.done, after.steps) == (12, 12)
    assert store.files.result_path(after).read_bytes() == b"result"
    assert [path.name for path in (tmp_path / "jobs" / job.id).iterdir()] == [store.files.result_path(after).name]


def test_jobs_are_claimed_in_order_and_know_their_place(store: JobStore) -> None:
    jobs = [queue(store, client=name) for name in "abc"]
    assert [get(store, job).place for job in jobs] == [1, 2, 3]
    assert claim(store).id == jobs[0].id
    assert [get(store, job).place for job in jobs] == [None, 1, 2]


def test_an_expired_lease_queues_the_job_and_rejects_the_former_holder(store: JobStore, clock: Clock) -> None:
    job = queue(store)
    first = claim(store)
    clock.now += LEASE_S - 1
    assert store.renew(first, 1, 2)
    clock.now += LEASE_S - 1
    assert expire(store) == ([], [])
    clock.now += 2
    assert expire(store) == ([job.id], [])
    assert (get(store, job).state, get(store, job).done) == ("queued", 0)
    second = claim(store)
    assert (second.id, second.attempts) == (job.id, 2)
    assert not store.renew(first, 2, 2)
    assert not store.succeed(first, {}, 1)
    assert not store.fail(first, LOST)
    assert not store.release(first)
    assert store.files.result_path(first) != store.files.result_path(second)
    assert store.succeed(second, {}, 1)


def test_a_held_lease_does_not_expire(store: JobStore, clock: Clock) -> None:
    queue(store)
    mine = claim(store)
    clock.now += 10 * LEASE_S  # the machine slept
    assert expire(store, mine.lease) == ([], [])
    assert store.renew(mine, 0, 1)


def test_a_lease_expires_if_the_clock_was_set_back(store: JobStore, clock: Clock) -> None:
    job = queue(store)
    claim(store)
    clock.now -= 3600
    assert expire(store) == ([job.id], [])


def test_a_job_that_is_interrupted_too_often_fails_with_its_reason(store: JobStore, clock: Clock) -> None:
    job = queue(store)
    for attempt in range(MAX_ATTEMPTS):
        assert claim(store).attempts == attempt + 1
        clock.now += LEASE_S
        changed, over = expire(store)
        assert changed == [job.id]
    assert over == [job.id]
    assert (get(store, job).state, get(store, job).problem) == ("failed", LOST)
    assert store.claim_next() is None


def test_a_graceful_stop_does_not_count_as_an_attempt(store: JobStore) -> None:
    queue(store)
    for _ in range(2 * MAX_ATTEMPTS):
        mine = claim(store)
        assert mine.attempts == 1
        assert store.release(mine)


def test_a_job_that_waits_beyond_its_deadline_fails(store: JobStore, clock: Clock) -> None:
    job = queue(store, deadline=clock.now + 5)
    assert expire(store) == ([], [])
    clock.now += 5
    assert expire(store) == ([job.id], [job.id])
    assert get(store, job).problem == LATE


def test_a_key_belongs_to_one_job_of_one_client(store: JobStore, clock: Clock) -> None:
    first = queue(store, key="k", digest="1")
    again, fresh = store.add(make_job(key="k", digest="2"), 1)
    assert (again.id, again.digest, fresh) == (first.id, "1", False)
    assert queue(store, client="b", key="k").id != first.id
    assert store.cancel(first.id)
    assert store.find_by_key("a", "k") == get(store, first)
    clock.now += TTL
    assert store.find_by_key("a", "k") is None  # although `expire` has not run
    assert queue(store, key="k").id != first.id


def test_the_number_of_jobs_is_limited(store: JobStore) -> None:
    jobs = [queue(store) for _ in range(4)]
    with pytest.raises(JobsFull) as refused:
        store.add(make_job(), 1)
    assert refused.value.limit == 4
    assert store.cancel(jobs[2].id)
    queue(store)


def test_disk_space_is_limited_and_rows_count(tmp_path: Path, clock: Clock) -> None:
    small = JobStore(tmp_path, max_jobs=1000, max_bytes=10 * ROW_BYTES, ttl=TTL, clock=clock)
    small.open()
    with pytest.raises(StorageFull):
        small.check_capacity(10 * ROW_BYTES)
    for _ in range(10):
        small.cancel(small.add(make_job(), 0)[0].id)
    with pytest.raises(StorageFull):
        small.add(make_job(), 0)
    clock.now += TTL
    expire(small)
    with pytest.raises(StorageFull):
        small.add(make_job(), 0)  # expired jobs still count
    clock.now += TTL
    expire(small)
    small.add(make_job(), 0)
    small.close()


class Full(io.BytesIO):
    """A file that cannot be read to its end because the disk is full."""

    def __init__(self, error: int) -> None:
        super().__init__(b"x")
        self.error = error

    def read(self, *_: Any) -> bytes:
        raise OSError(self.error, "no space left")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_raises_storage_full_and_leaves_no_files(store: JobStore, tmp_path: Path, error: int) -> None:
    with pytest.raises(StorageFull, match="No disk space"):
        store.files.save_inputs("0" * 32, {"image": Full(error)})
    assert not list((tmp_path / "jobs").iterdir())


def test_a_full_database_raises_storage_full(store: JobStore) -> None:
    assert store._connection is not None
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        store.add(NewJob("a", "denoise", {"form": "x" * 100_000}, ""), 0)
    store._connection.execute("PRAGMA max_page_count = 1000000")
    queue(store)


def test_finished_jobs_expire_and_are_later_deleted(store: JobStore, clock: Clock) -> None:
    job = queue(store)
    mine = claim(store)
    store.files.save_result(mine, b"x")
    assert store.succeed(mine, {"headers": {}}, 1)
    for after_expire in (False, True):
        clock.now = mine.created + TTL - 0.1
        assert get(store, job).state == "succeeded" or after_expire
        clock.now += 0.1
        if after_expire:
            assert expire(store) == ([], [job.id])
        assert (get(store, job).state, get(store, job).result) == ("expired", None)
        clock.now += TTL
        assert store.get(job.id) is None
    expire(store)
    assert store.count_by_state() == {}


@pytest.mark.parametrize("name", ["", "..", "../../etc", "0" * 31, "0" * 33, "Z" * 32, "0" * 31 + "/", "\0" * 32])
def test_an_invalid_id_is_not_found(store: JobStore, name: str) -> None:
    assert store.get(name) is None


def test_two_processes_never_claim_the_same_job(store: JobStore, clock: Clock, tmp_path: Path) -> None:
    jobs = {queue(store).id for _ in range(4)}
    other = JobStore(tmp_path, ttl=TTL, clock=clock)
    other.open()
    held = [claim(one) for one in (store, other, store, other)]
    assert {job.id for job in held} == jobs
    assert store.claim_next() is other.claim_next() is None
    store.close()
    assert expire(other, held[1].lease, held[3].lease) == ([], [])
    clock.now += LEASE_S
    assert set(expire(other, held[1].lease, held[3].lease)[0]) == {held[0].id, held[2].id}
    other.close()


def test_old_folders_are_found(store: JobStore, clock: Clock, tmp_path: Path) -> None:
    job = queue(store)
    store.files.save_inputs("0" * 32, {"image": io.BytesIO(b"x")})
    (tmp_path / "jobs" / "notes.txt").touch()
    for folder in (tmp_path / "jobs").iterdir():
        os.utime(folder, (clock.now, clock.now))
    assert store.files.find_old_folders() == []
    clock.now += ORPHAN_AGE_S + 1
    assert set(store.files.find_old_folders()) == {job.id, "0" * 32}


def test_cleanup_without_files_does_nothing(store: JobStore) -> None:
    queue(store)
    job = claim(store)
    store.files.delete(job.id)
    assert store.succeed(job, {}, 0)
    store.files.cleanup(get(store, job))


def test_an_unusable_folder_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobStoreError, match="cannot store jobs"):
        JobStore(tmp_path / "file").open()
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(JobStoreError, match="cannot store jobs"):
        JobStore(tmp_path).open()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    table = sqlite3.connect(tmp_path / "jobs.sqlite3")
    table.execute(f"PRAGMA user_version = {module._SCHEMA_VERSION + 1}")
    table.close()
    with pytest.raises(JobStoreError, match="newer"):
        JobStore(tmp_path).open()


# --- random sequences of operations, compared with a simple model ---


@dataclass
class ModelJob:
    """The expected state of a job."""

    client: str
    key: str | None
    state: str = "queued"
    expires: float | None = None
    until: float = 0.0
    attempts: int = 0
    lease: str = ""
    body: bytes = b""


@dataclass
class Model:
    jobs: dict[str, ModelJob] = field(default_factory=dict)

    def states(self, now: float) -> dict[str, str]:
        """Return the states of all jobs, by id, in the order in which they were added."""
        states = {}
        for name, job in self.jobs.items():
            expired = job.expires is not None and now >= job.expires
            if expired and job.expires is not None and now >= job.expires + TTL:
                continue
            states[name] = "expired" if expired else job.state
        return states

    def active(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.state in ("queued", "running")]

    def end(self, name: str, state: str, now: float) -> None:
        job = self.jobs[name]
        job.state, job.expires, job.until = state, now + TTL, 0.0

    def expire(self, held_leases: set[str], now: float) -> None:
        for name, job in self.jobs.items():
            if job.state == "running" and job.lease not in held_leases and now >= job.until:
                job.state, job.lease = "queued", ""
                if job.attempts >= MAX_ATTEMPTS:
                    self.end(name, "failed", now)


class Machine(RuleBasedStateMachine):
    """Two processes with one database, and clients that create, poll, cancel, repeat and delete jobs over time."""

    ids = Bundle("ids")
    leases = Bundle("leases")
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.stores = [self.open_store(), self.open_store()]
        self.model = Model()

    def open_store(self) -> JobStore:
        store = JobStore(Path(self.folder.name), max_jobs=5, ttl=TTL, clock=self.clock)
        store.open()
        return store

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    which = st.integers(0, 1)

    @rule(target=ids, which=which, client=st.sampled_from("aab"), key=st.sampled_from([None, "k"]))
    def create_or_repeat(self, which: int, client: str, key: str | None) -> str:
        store, now = self.stores[which], self.clock.now
        states = self.model.states(now)
        same = [
            name
            for name, job in self.model.jobs.items()
            if key and (job.client, job.key) == (client, key) and states.get(name, "expired") != "expired"
        ]
        new_job = make_job(client, key=key)
        size = len(b"picture")
        store.files.save_inputs(new_job.id, {"image": io.BytesIO(b"picture")})
        if not same and len(self.model.active()) >= 5:
            with pytest.raises(JobsFull):
                store.add(new_job, size)
            store.files.delete(new_job.id)
            return new_job.id
        job, fresh = store.add(new_job, size)
        assert fresh == (not same)
        if fresh:
            self.model.jobs[new_job.id] = ModelJob(client, key)
        else:
            assert job.id == same[0]
            store.files.delete(new_job.id)
        return job.id

    @rule(target=leases, which=which)
    def claim(self, which: int) -> Any:
        job = self.stores[which].claim_next()
        waiting = [name for name, one in self.model.jobs.items() if one.state == "queued"]
        assert (job and job.id) == (waiting[0] if waiting else None)
        if job is not None:
            model_job = self.model.jobs[job.id]
            model_job.state, model_job.lease, model_job.until = "running", job.lease, self.clock.now + LEASE_S
            model_job.attempts += 1
            assert job.attempts == model_job.attempts
        return job or multiple()

    def holds(self, job: Job) -> bool:
        """Tell whether the lease is still valid."""
        model_job = self.model.jobs.get(job.id)
        return model_job is not None and model_job.state == "running" and model_job.lease == job.lease

    @rule(which=which, job=leases)
    def renew(self, which: int, job: Job) -> None:
        assert self.stores[which].renew(job, 1, 2) == self.holds(job)
        if self.holds(job):
            self.model.jobs[job.id].until = self.clock.now + LEASE_S

    @rule(which=which, job=consumes(leases), crashes=st.booleans())
    def succeed(self, which: int, job: Job, crashes: bool) -> None:
        if not (Path(self.folder.name) / "jobs" / job.id).exists():
            return
        store = self.stores[which]
        body = job.lease.encode()
        store.files.save_result(job, body)
        if crashes:
            return
        kept = store.succeed(job, {}, len(body))
        assert kept == self.holds(job)
        if kept:
            self.model.jobs[job.id].body = body
            self.model.end(job.id, "succeeded", self.clock.now)
            now = store.get(job.id)
            assert now is not None
            store.files.cleanup(now)

    @rule(which=which, job=consumes(leases))
    def fail(self, which: int, job: Job) -> None:
        kept = self.stores[which].fail(job, LATE)
        assert kept == self.holds(job)
        if kept:
            self.model.end(job.id, "failed", self.clock.now)

    @rule(which=which, job=consumes(leases))
    def release(self, which: int, job: Job) -> None:
        assert self.stores[which].release(job) == self.holds(job)
        if self.holds(job):
            model_job = self.model.jobs[job.id]
            model_job.state, model_job.lease, model_job.attempts = "queued", "", model_job.attempts - 1

    @rule(which=which, name=ids)
    def cancel(self, which: int, name: str) -> None:
        done = self.stores[which].cancel(name)
        assert done == (name in self.model.active())
        if done:
            self.model.end(name, "cancelled", self.clock.now)

    @rule(which=which, name=ids)
    def delete(self, which: int, name: str) -> None:
        store = self.stores[which]
        if store.delete(name):
            store.files.delete(name)
            assert name not in self.model.active()
            del self.model.jobs[name]
        else:
            assert name in self.model.active() or name not in self.model.states(self.clock.now)

    @rule(seconds=st.sampled_from([LEASE_S / 2, LEASE_S, TTL / 2, TTL]))
    def advance_clock(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(which=which)
    def expire_all_leases(self, which: int) -> None:
        self.clock.now += LEASE_S
        self.expire(which, [])

    @rule(which=which, held=st.lists(leases, max_size=2))
    def expire(self, which: int, held: list[Job]) -> None:
        store = self.stores[which]
        held_leases = {job.lease for job in held}
        for name in expire(store, *held_leases)[1]:
            store.files.delete(name)
        self.model.expire(held_leases, self.clock.now)
        # Deleted jobs are gone from the table, too.
        known = self.model.states(self.clock.now)
        self.model.jobs = {name: job for name, job in self.model.jobs.items() if name in known}

    @rule(which=which)
    def reopen(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.open_store()

    @invariant()
    def store_equals_model(self) -> None:
        Machine.steps += 1
        states = self.model.states(self.clock.now)
        for store in self.stores:
            found = {name: job for name in self.model.jobs if (job := store.get(name)) is not None}
            assert {name: job.state for name, job in found.items()} == states
            waiting = [name for name, state in states.items() if state == "queued"]
            assert [found[name].place for name in waiting] == list(range(1, len(waiting) + 1))
            for name, state in states.items():
                assert (found[name].problem is not None) == (state == "failed")
                if state == "succeeded":
                    assert store.files.result_path(found[name]).read_bytes() == self.model.jobs[name].body
                if state in ("queued", "running"):
                    assert store.files.find_inputs(name)["image"].read_bytes() == b"picture"


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_random_operations_agree_with_the_model() -> None:
    Machine.steps = 0
    walk(Machine)
    assert Machine.steps >= STEPS
