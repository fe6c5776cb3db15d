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
from app.jobs.store import ABANDONED_S, ATTEMPTS, LEASE_S, ROW_BYTES, Job, JobStoreError, NewJob, Store
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
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    made = Store(tmp_path, most=4, most_bytes=100_000, ttl=TTL, clock=clock)
    made.open()
    yield made
    made.close()


def order(client: str = "a", **rest: Any) -> NewJob:
    return NewJob(client, "denoise", {"form": {}}, rest.pop("digest", ""), **rest)


def queued(store: Store, data: bytes = b"picture", **rest: Any) -> Job:
    """Queue a job as the service does: files first, then the row."""
    made = order(**rest)
    store.receive(made.id, {"image": io.BytesIO(data)})
    job, fresh = store.add(made, len(data))
    assert fresh
    return job


def swept(store: Store, *holds: str) -> tuple[list[str], list[str]]:
    return store.sweep(holds, interrupted=LOST, late=LATE)


def taken(store: Store) -> Job:
    job = store.take()
    assert job is not None
    return job


def seen(store: Store, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def test_a_job_goes_its_way_and_its_files_with_it(store: Store, clock: Clock, tmp_path: Path) -> None:
    job = queued(store, b"\0" * 500)
    assert (job.state, job.place, job.created) == ("queued", 1, clock.now)
    assert [path.read_bytes() for path in store.inputs(job.id).values()] == [b"\0" * 500]
    clock.now += 5
    mine = taken(store)
    assert (mine.id, mine.state, mine.started, mine.place) == (job.id, "running", clock.now, None)
    assert store.take() is None
    assert store.renew(mine, 3, 12)
    assert (seen(store, job).done, seen(store, job).steps) == (3, 12)
    digest = store.write_result(mine, b"result")
    assert store.succeed(mine, {"digest": digest}, 6, 12)
    after = seen(store, job)
    store.tidy(after)
    assert (after.state, after.finished, after.expires) == ("succeeded", clock.now, clock.now + TTL)
    assert (after.done, after.steps) == (12, 12)
    assert store.result(after).read_bytes() == b"result"
    assert [path.name for path in (tmp_path / "jobs" / job.id).iterdir()] == [store.result(after).name]


def test_first_come_first_served_and_everybody_knows_his_place(store: Store) -> None:
    jobs = [queued(store, client=name) for name in "abc"]
    assert [seen(store, job).place for job in jobs] == [1, 2, 3]
    assert taken(store).id == jobs[0].id
    assert [seen(store, job).place for job in jobs] == [None, 1, 2]


def test_a_lease_that_is_over_is_given_to_the_next_and_the_former_holder_is_refused(store: Store, clock: Clock) -> None:
    job = queued(store)
    first = taken(store)
    clock.now += LEASE_S - 1
    assert store.renew(first, 1, 2)
    clock.now += LEASE_S - 1
    assert swept(store) == ([], [])
    clock.now += 2
    assert swept(store) == ([job.id], [])
    assert (seen(store, job).state, seen(store, job).done) == ("queued", 0)
    second = taken(store)
    assert (second.id, second.attempts) == (job.id, 2)
    assert not store.renew(first, 2, 2)
    assert not store.succeed(first, {}, 1)
    assert not store.fail(first, LOST)
    assert not store.release(first)
    assert store.result(first) != store.result(second)
    assert store.succeed(second, {}, 1)


def test_who_holds_a_lease_keeps_it_though_it_is_over(store: Store, clock: Clock) -> None:
    queued(store)
    mine = taken(store)
    clock.now += 10 * LEASE_S  # the machine slept
    assert swept(store, mine.lease) == ([], [])
    assert store.renew(mine, 0, 1)


def test_a_clock_that_was_set_back_makes_no_lease_last(store: Store, clock: Clock) -> None:
    job = queued(store)
    taken(store)
    clock.now -= 3600
    assert swept(store) == ([job.id], [])


def test_a_job_that_is_interrupted_too_often_fails_with_its_reason(store: Store, clock: Clock) -> None:
    job = queued(store)
    for attempt in range(ATTEMPTS):
        assert taken(store).attempts == attempt + 1
        clock.now += LEASE_S
        changed, over = swept(store)
        assert changed == [job.id]
    assert over == [job.id]
    assert (seen(store, job).state, seen(store, job).problem) == ("failed", LOST)
    assert store.take() is None


def test_a_graceful_stop_is_no_attempt(store: Store) -> None:
    queued(store)
    for _ in range(2 * ATTEMPTS):
        mine = taken(store)
        assert mine.attempts == 1
        assert store.release(mine)


def test_a_job_that_waits_beyond_its_deadline_fails(store: Store, clock: Clock) -> None:
    job = queued(store, deadline=clock.now + 5)
    assert swept(store) == ([], [])
    clock.now += 5
    assert swept(store) == ([job.id], [job.id])
    assert seen(store, job).problem == LATE


def test_a_key_stands_for_one_job_of_one_client(store: Store, clock: Clock) -> None:
    first = queued(store, key="k", digest="1")
    again, fresh = store.add(order(key="k", digest="2"), 1)
    assert (again.id, again.digest, fresh) == (first.id, "1", False)
    assert queued(store, client="b", key="k").id != first.id
    assert store.cancel(first.id)
    assert store.find("a", "k") == seen(store, first)
    clock.now += TTL
    assert store.find("a", "k") is None  # though nothing was swept yet
    assert queued(store, key="k").id != first.id


def test_no_more_jobs_than_may_be(store: Store) -> None:
    jobs = [queued(store) for _ in range(4)]
    with pytest.raises(JobsFull) as refused:
        store.add(order(), 1)
    assert refused.value.limit == 4
    assert store.cancel(jobs[2].id)
    queued(store)


def test_no_more_room_than_there_is_and_rows_count_too(tmp_path: Path, clock: Clock) -> None:
    small = Store(tmp_path, most=1000, most_bytes=10 * ROW_BYTES, ttl=TTL, clock=clock)
    small.open()
    with pytest.raises(StorageFull):
        small.check_room(10 * ROW_BYTES)
    for _ in range(10):
        small.cancel(small.add(order(), 0)[0].id)
    with pytest.raises(StorageFull):
        small.add(order(), 0)
    clock.now += TTL
    swept(small)
    with pytest.raises(StorageFull):
        small.add(order(), 0)  # what has expired is still known
    clock.now += TTL
    swept(small)
    small.add(order(), 0)
    small.close()


class Full(io.BytesIO):
    """A file that cannot be read to its end because there is no room for what was read."""

    def __init__(self, error: int) -> None:
        super().__init__(b"x")
        self.error = error

    def read(self, *_: Any) -> bytes:
        raise OSError(self.error, "no room")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_nothing(store: Store, tmp_path: Path, error: int) -> None:
    with pytest.raises(StorageFull, match="no room"):
        store.receive("0" * 32, {"image": Full(error)})
    assert not list((tmp_path / "jobs").iterdir())


def test_a_full_database_is_told(store: Store) -> None:
    assert store._table is not None
    (pages,) = store._table.execute("PRAGMA page_count").fetchone()
    store._table.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        store.add(NewJob("a", "denoise", {"form": "x" * 100_000}, ""), 0)
    store._table.execute("PRAGMA max_page_count = 1000000")
    queued(store)


def test_what_is_over_expires_and_is_then_forgotten(store: Store, clock: Clock) -> None:
    job = queued(store)
    mine = taken(store)
    store.write_result(mine, b"x")
    assert store.succeed(mine, {"headers": {}}, 1)
    for by_sweeping in (False, True):
        clock.now = mine.created + TTL - 0.1
        assert seen(store, job).state == "succeeded" or by_sweeping
        clock.now += 0.1
        if by_sweeping:
            assert swept(store) == ([], [job.id])
        assert (seen(store, job).state, seen(store, job).result) == ("expired", None)
        clock.now += TTL
        assert store.get(job.id) is None
    swept(store)
    assert store.counts() == {}


@pytest.mark.parametrize("name", ["", "..", "../../etc", "0" * 31, "0" * 33, "Z" * 32, "0" * 31 + "/", "\0" * 32])
def test_a_name_that_is_no_id_is_nobody(store: Store, name: str) -> None:
    assert store.get(name) is None


def test_a_second_process_takes_what_the_first_left_and_never_the_same(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    jobs = {queued(store).id for _ in range(4)}
    other = Store(tmp_path, ttl=TTL, clock=clock)
    other.open()
    held = [taken(one) for one in (store, other, store, other)]
    assert {job.id for job in held} == jobs
    assert store.take() is other.take() is None
    store.close()
    assert swept(other, held[1].lease, held[3].lease) == ([], [])
    clock.now += LEASE_S
    assert set(swept(other, held[1].lease, held[3].lease)[0]) == {held[0].id, held[2].id}
    other.close()


def test_files_of_nobody_are_found_once_they_are_old(store: Store, clock: Clock, tmp_path: Path) -> None:
    job = queued(store)
    store.receive("0" * 32, {"image": io.BytesIO(b"x")})
    (tmp_path / "jobs" / "notes.txt").touch()
    for folder in (tmp_path / "jobs").iterdir():
        os.utime(folder, (clock.now, clock.now))
    assert store.leftovers() == []
    clock.now += ABANDONED_S + 1
    assert set(store.leftovers()) == {job.id, "0" * 32}


def test_there_is_nothing_to_tidy_where_somebody_else_erased_the_files(store: Store) -> None:
    queued(store)
    job = taken(store)
    store.clear(job.id)
    assert store.succeed(job, {}, 0)
    store.tidy(seen(store, job))


def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobStoreError, match="cannot be kept"):
        Store(tmp_path / "file").open()
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(JobStoreError, match="cannot be kept"):
        Store(tmp_path).open()


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    table = sqlite3.connect(tmp_path / "jobs.sqlite3")
    table.execute(f"PRAGMA user_version = {module._VERSION + 1}")
    table.close()
    with pytest.raises(JobStoreError, match="newer"):
        Store(tmp_path).open()


# --- the contract, step by step in any order, against a plain model of it ---


@dataclass
class Plain:
    """What a job should be."""

    client: str
    key: str | None
    state: str = "queued"
    expires: float | None = None
    until: float = 0.0
    attempts: int = 0
    lease: str = ""
    body: bytes = b""


@dataclass
class Contract:
    jobs: dict[str, Plain] = field(default_factory=dict)

    def shown(self, now: float) -> dict[str, str]:
        """Return the states of those that are known, by id, in the order they came."""
        shown = {}
        for name, job in self.jobs.items():
            expired = job.expires is not None and now >= job.expires
            if expired and job.expires is not None and now >= job.expires + TTL:
                continue
            shown[name] = "expired" if expired else job.state
        return shown

    def active(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.state in ("queued", "running")]

    def end(self, name: str, state: str, now: float) -> None:
        job = self.jobs[name]
        job.state, job.expires, job.until = state, now + TTL, 0.0

    def sweep(self, holds: set[str], now: float) -> None:
        for name, job in self.jobs.items():
            if job.state == "running" and job.lease not in holds and now >= job.until:
                job.state, job.lease = "queued", ""
                if job.attempts >= ATTEMPTS:
                    self.end(name, "failed", now)


class Machine(RuleBasedStateMachine):
    """Two processes over one store, and clients who create, poll, cancel, repeat and erase while time goes by."""

    ids = Bundle("ids")
    leases = Bundle("leases")
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.stores = [self.opened(), self.opened()]
        self.plain = Contract()

    def opened(self) -> Store:
        store = Store(Path(self.folder.name), most=5, ttl=TTL, clock=self.clock)
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
        shown = self.plain.shown(now)
        same = [
            name
            for name, job in self.plain.jobs.items()
            if key and (job.client, job.key) == (client, key) and shown.get(name, "expired") != "expired"
        ]
        made = order(client, key=key)
        size = len(b"picture")
        store.receive(made.id, {"image": io.BytesIO(b"picture")})
        if not same and len(self.plain.active()) >= 5:
            with pytest.raises(JobsFull):
                store.add(made, size)
            store.clear(made.id)
            return made.id
        job, fresh = store.add(made, size)
        assert fresh == (not same)
        if fresh:
            self.plain.jobs[made.id] = Plain(client, key)
        else:
            assert job.id == same[0]
            store.clear(made.id)
        return job.id

    @rule(target=leases, which=which)
    def take(self, which: int) -> Any:
        job = self.stores[which].take()
        waiting = [name for name, one in self.plain.jobs.items() if one.state == "queued"]
        assert (job and job.id) == (waiting[0] if waiting else None)
        if job is not None:
            plain = self.plain.jobs[job.id]
            plain.state, plain.lease, plain.until = "running", job.lease, self.clock.now + LEASE_S
            plain.attempts += 1
            assert job.attempts == plain.attempts
        return job or multiple()

    def holds(self, job: Job) -> bool:
        """Whether the lease is still good."""
        plain = self.plain.jobs.get(job.id)
        return plain is not None and plain.state == "running" and plain.lease == job.lease

    @rule(which=which, job=leases)
    def renew(self, which: int, job: Job) -> None:
        assert self.stores[which].renew(job, 1, 2) == self.holds(job)
        if self.holds(job):
            self.plain.jobs[job.id].until = self.clock.now + LEASE_S

    @rule(which=which, job=consumes(leases), crashes=st.booleans())
    def succeed(self, which: int, job: Job, crashes: bool) -> None:
        if not (Path(self.folder.name) / "jobs" / job.id).exists():
            return
        store = self.stores[which]
        body = job.lease.encode()
        store.write_result(job, body)
        if crashes:
            return
        kept = store.succeed(job, {}, len(body))
        assert kept == self.holds(job)
        if kept:
            self.plain.jobs[job.id].body = body
            self.plain.end(job.id, "succeeded", self.clock.now)
            now = store.get(job.id)
            assert now is not None
            store.tidy(now)

    @rule(which=which, job=consumes(leases))
    def fail(self, which: int, job: Job) -> None:
        kept = self.stores[which].fail(job, LATE)
        assert kept == self.holds(job)
        if kept:
            self.plain.end(job.id, "failed", self.clock.now)

    @rule(which=which, job=consumes(leases))
    def release(self, which: int, job: Job) -> None:
        assert self.stores[which].release(job) == self.holds(job)
        if self.holds(job):
            plain = self.plain.jobs[job.id]
            plain.state, plain.lease, plain.attempts = "queued", "", plain.attempts - 1

    @rule(which=which, name=ids)
    def cancel(self, which: int, name: str) -> None:
        done = self.stores[which].cancel(name)
        assert done == (name in self.plain.active())
        if done:
            self.plain.end(name, "cancelled", self.clock.now)

    @rule(which=which, name=ids)
    def erase(self, which: int, name: str) -> None:
        store = self.stores[which]
        if store.erase(name):
            store.clear(name)
            assert name not in self.plain.active()
            del self.plain.jobs[name]
        else:
            assert name in self.plain.active() or name not in self.plain.shown(self.clock.now)

    @rule(seconds=st.sampled_from([LEASE_S / 2, LEASE_S, TTL / 2, TTL]))
    def time_goes_by(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(which=which)
    def nobody_lives_through_the_lease(self, which: int) -> None:
        self.clock.now += LEASE_S
        self.sweep(which, [])

    @rule(which=which, held=st.lists(leases, max_size=2))
    def sweep(self, which: int, held: list[Job]) -> None:
        store = self.stores[which]
        holds = {job.lease for job in held}
        for name in swept(store, *holds)[1]:
            store.clear(name)
        self.plain.sweep(holds, self.clock.now)
        # What is forgotten is gone from the table, too: whoever erases it later finds nothing.
        known = self.plain.shown(self.clock.now)
        self.plain.jobs = {name: job for name, job in self.plain.jobs.items() if name in known}

    @rule(which=which)
    def start_again(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self.opened()

    @invariant()
    def it_is_as_it_should_be(self) -> None:
        Machine.steps += 1
        shown = self.plain.shown(self.clock.now)
        for store in self.stores:
            found = {name: job for name in self.plain.jobs if (job := store.get(name)) is not None}
            assert {name: job.state for name, job in found.items()} == shown
            waiting = [name for name, state in shown.items() if state == "queued"]
            assert [found[name].place for name in waiting] == list(range(1, len(waiting) + 1))
            for name, state in shown.items():
                assert (found[name].problem is not None) == (state == "failed")
                if state == "succeeded":
                    assert store.result(found[name]).read_bytes() == self.plain.jobs[name].body
                if state in ("queued", "running"):
                    assert store.inputs(name)["image"].read_bytes() == b"picture"


@pytest.mark.timeout(1800)
def test_the_contract_holds_whatever_happens_in_whatever_order() -> None:
    Machine.steps = 0
    walk(Machine)
    assert Machine.steps >= STEPS
