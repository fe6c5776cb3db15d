"""Jobs on disk: a table in SQLite, and a folder for the files of each. Knows no HTTP and no event loop.

A job is `queued`, then `running`, then `succeeded`, `failed` or `cancelled`. Whoever takes it holds a lease, a random
word with a time, and must renew it: when its time is over, the job is queued again, and whatever comes under the old
lease is refused. Files come before the row that speaks of them, and go after it, so that an end at any moment leaves
nothing but a file that nobody needs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from app.errors import JobsFull, Overloaded, StorageFull

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]

LEASE_S = 10.0
"""Seconds after which a job whose holder is not heard of is queued again."""
ATTEMPTS = 3
"""How often a job is begun before it is given up."""
ROW_BYTES = 4096
"""What a job counts for beside its files, so that the bound on the room bounds the rows, too."""
ABANDONED_S = 3600.0
"""Seconds after which files without a row are nobody's: their upload has ended long ago."""
_VERSION = 1
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z_]{1,40}")
_OVER = "('succeeded', 'failed', 'cancelled')"

_SCHEMA = """
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
"""


class JobStoreError(RuntimeError):
    """The folder cannot be used. The text is one line for the person who starts the service."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be. `request` is what a run needs beside the pictures, as JSON can hold it; `deadline` a time of day."""

    client: str
    task: str
    request: dict[str, Any]
    digest: str
    key: str | None = None
    deadline: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a job. Times are seconds since 1970; `place` is 1 for the next of those that wait.

    `result` says what the result's file is like, `problem` why there is none; `lease` is its holder's word.
    """

    number: int
    id: str
    client: str
    task: str
    request: dict[str, Any]
    state: State
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    deadline: float | None
    key: str | None
    digest: str
    done: int
    steps: int
    attempts: int
    lease: str
    problem: dict[str, Any] | None
    result: dict[str, Any] | None
    place: int | None

    @property
    def over(self) -> bool:
        """Whether nothing will happen to it any more but its expiry."""
        return self.state not in ("queued", "running")


class Store:
    """The jobs below `folder`. `open` it first; its methods on the table are for one thread at a time.

    At most `most` jobs wait or run, and `most_bytes` is the room of all. What is over is kept for `ttl` seconds, and
    for as long again it is known to have been. `clock` gives the time of day.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most: int = 100,
        most_bytes: int = 2**32,
        ttl: float = 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._most = most
        self._most_bytes = most_bytes
        self._ttl = ttl
        self.clock = clock
        self._table: sqlite3.Connection | None = None

    # --- the table ---

    def open(self) -> None:
        """Make or open the database; once is enough. Raises StoreError."""
        if self._table is not None:
            return
        try:
            (self._folder / "jobs").mkdir(parents=True, exist_ok=True)
            table = sqlite3.connect(
                self._folder / "jobs.sqlite3", timeout=10, isolation_level=None, check_same_thread=False
            )
            table.row_factory = sqlite3.Row
            table.execute("PRAGMA journal_mode = WAL")
            table.execute("PRAGMA synchronous = FULL")  # who was told 202 finds the job even after a power cut
            table.execute("BEGIN IMMEDIATE")
            (version,) = table.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    table.execute(statement)
                table.execute(f"PRAGMA user_version = {_VERSION}")
            table.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise JobStoreError(f"jobs cannot be kept in {self._folder}: {error}") from None
        if version > _VERSION:
            table.close()
            raise JobStoreError(f"the jobs in {self._folder} were written by a newer version")
        self._table = table

    def close(self) -> None:
        """Let go of the database."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def add(self, order: NewJob, size: int) -> tuple[Job, bool]:
        """Queue a job whose files of `size` bytes are here; return it, and True. Raises JobsFull, StorageFull.

        Where its client has a job of the same key, that one is returned, and False.
        """
        now = self.clock()
        with self._changes() as table:
            if order.key is not None:
                # What has expired holds its key no longer.
                table.execute(
                    "UPDATE jobs SET key = NULL WHERE client = ? AND key = ? AND expires <= ?",
                    (order.client, order.key, now),
                )
                old = self._one("client = ? AND key = ?", order.client, order.key)
                if old is not None:
                    return old, False
            self.check_room(size)
            table.execute(
                "INSERT INTO jobs (id, client, task, request, state, created, deadline, key, digest, bytes)"
                " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?)",
                (
                    order.id,
                    order.client,
                    order.task,
                    json.dumps(order.request),
                    now,
                    order.deadline,
                    order.key,
                    order.digest,
                    size + ROW_BYTES,
                ),
            )
            added = self._one("id = ?", order.id)
        assert added is not None
        return added, True

    def check_room(self, size: int) -> None:
        """Raise JobsFull or StorageFull unless one more job with files of `size` bytes may be."""
        (active,) = self._row("SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')")
        if active >= self._most:
            text = f"{active} jobs wait or run already, which is as many as may be."
            raise JobsFull(text, limit=self._most, retry_after=30)
        self.check_size(size + ROW_BYTES)

    def check_size(self, more: int) -> None:
        """Raise StorageFull unless there is room for so many bytes more."""
        (taken,) = self._row("SELECT COALESCE(SUM(bytes), 0) FROM jobs")
        if taken + more > self._most_bytes:
            raise _full(limit=self._most_bytes)

    def get(self, job: str) -> Job | None:
        """Return the job with this id, None where there is none."""
        return self._one("id = ?", job) if _ID.fullmatch(job) else None

    def find(self, client: str, key: str) -> Job | None:
        """Return the job of this client with this key, None where there is none, or no longer."""
        found = self._one("client = ? AND key = ?", client, key)
        return found if found is not None and found.state != "expired" else None

    def newest(self, client: str, most: int) -> list[Job]:
        """Return the client's newest jobs, the newest first."""
        return self._all("client = ? ORDER BY number DESC LIMIT ?", client, most)

    def take(self) -> Job | None:
        """Lease out the job that has waited longest, None where none waits."""
        now = self.clock()
        with self._changes() as table:
            chosen = table.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchone()
            if chosen is None:
                return None
            table.execute(
                "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1, done = 0, steps = 0,"
                " lease = ?, lease_until = ? WHERE id = ?",
                (now, secrets.token_hex(8), now + LEASE_S, chosen["id"]),
            )
            return self._one("id = ?", chosen["id"])

    def renew(self, job: Job, done: int, steps: int) -> bool:
        """Hold a taken job for longer and say how far it is. False: it is no longer the caller's."""
        return self._held(job, "done = ?, steps = ?, lease_until = ?", done, steps, self.clock() + LEASE_S)

    def succeed(self, job: Job, result: Mapping[str, Any], size: int, steps: int = 0) -> bool:
        """End a taken job whose result of `size` bytes is written. False: it is no longer the caller's."""
        return self._ended(
            job,
            "succeeded",
            "result = ?, bytes = ?, done = ?, steps = ?",
            json.dumps(result),
            size + ROW_BYTES,
            steps,
            steps,
        )

    def fail(self, job: Job, problem: Mapping[str, Any]) -> bool:
        """End a taken job with its reason. False: it is no longer the caller's."""
        return self._ended(job, "failed", "problem = ?, bytes = ?", json.dumps(problem), ROW_BYTES)

    def release(self, job: Job) -> bool:
        """Queue a taken job again, as if it had not been taken. False: it is no longer the caller's."""
        return self._held(
            job,
            "state = 'queued', started = NULL, attempts = attempts - 1, done = 0, steps = 0, lease = NULL,"
            " lease_until = NULL",
        )

    def cancel(self, job: str) -> bool:
        """End a job that waits or runs. False: it does neither."""
        now = self.clock()
        with self._changes() as table:
            done = table.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, expires = ?, bytes = ?, lease = NULL,"
                " lease_until = NULL WHERE id = ? AND state IN ('queued', 'running')",
                (now, now + self._ttl, ROW_BYTES, job),
            )
        return done.rowcount == 1

    def erase(self, job: str) -> bool:
        """Forget a job that is over. False: there is none. Its files are the caller's to `clear`."""
        with self._changes() as table:
            done = table.execute("DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", (job,))
        return done.rowcount == 1

    def sweep(
        self, holds: Collection[str], *, interrupted: Mapping[str, Any], late: Mapping[str, Any]
    ) -> tuple[list[str], list[str]]:
        """Do what time brings; return the ids of jobs whose state changed, and of those whose files may go.

        Leases that are over are taken back, but for those that the caller `holds`; a job that was interrupted too
        often fails with `interrupted`, one that waited beyond its deadline with `late`. What has expired goes.
        """
        now = self.clock()
        with self._changes() as table:
            lapsed = [
                row
                for row in table.execute("SELECT id, lease, attempts, lease_until FROM jobs WHERE state = 'running'")
                # A lease that ends later than any can was written by a clock that was wrong.
                if row["lease"] not in holds and not now < row["lease_until"] <= now + LEASE_S
            ]
            hopeless = [row["id"] for row in lapsed if row["attempts"] >= ATTEMPTS]
            again = [row["id"] for row in lapsed if row["attempts"] < ATTEMPTS]
            table.executemany(
                "UPDATE jobs SET state = 'queued', started = NULL, done = 0, steps = 0, lease = NULL,"
                " lease_until = NULL WHERE id = ?",
                [(job,) for job in again],
            )
            waiting = table.execute("SELECT id FROM jobs WHERE state = 'queued' AND deadline <= ?", (now,))
            overdue = [row["id"] for row in waiting]
            self._give_up(hopeless, interrupted, now)
            self._give_up(overdue, late, now)
            ended = table.execute(
                f"UPDATE jobs SET state = 'expired', key = NULL, problem = NULL, result = NULL, bytes = {ROW_BYTES}"
                f" WHERE state IN {_OVER} AND expires <= ? RETURNING id",
                (now,),
            )
            expired = [row["id"] for row in ended]
            table.execute("DELETE FROM jobs WHERE state = 'expired' AND expires <= ?", (now - self._ttl,))
        return [*again, *hopeless, *overdue], [*hopeless, *overdue, *expired]

    def over(self) -> list[Job]:
        """Return the jobs that are over and not expired."""
        return [job for job in self._all(f"state IN {_OVER}") if job.state != "expired"]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are, by state."""
        assert self._table is not None
        return dict(self._table.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())

    # --- the files; these may take their time, and are safe on any thread ---

    def receive(self, job: str, files: Mapping[str, BinaryIO]) -> None:
        """Keep the pictures of a job to be. Raises StorageFull."""
        folder = self._of(job)
        try:
            with _room():
                folder.mkdir(parents=True)
                for name, source in files.items():
                    source.seek(0)
                    with self._input(job, name).open("xb") as target:
                        shutil.copyfileobj(source, target, 2**20)
                        _settle(target)
                _settle_names(folder)
                _settle_names(folder.parent)
        except BaseException:
            self.clear(job)
            raise

    def inputs(self, job: str) -> dict[str, Path]:
        """Return the pictures of a job, by field."""
        return {path.name.removeprefix("input-"): path for path in sorted(self._of(job).glob("input-*"))}

    def write_result(self, job: Job, body: bytes | memoryview) -> str:
        """Keep the result of a taken job and return its digest. Raises StorageFull."""
        target = self.result(job)
        draft = target.with_suffix(".draft")
        with _room():
            with draft.open("wb") as file:
                file.write(body)
                _settle(file)
            draft.replace(target)
            _settle_names(target.parent)
        return hashlib.sha256(body).hexdigest()

    def result(self, job: Job) -> Path:
        """Return where the result of a job is. Each lease has a place of its own: a former holder can spoil nothing."""
        return self._of(job.id) / f"result-{job.lease}"

    def tidy(self, job: Job) -> None:
        """Erase the files of a job that is over, but for its result."""
        if job.state != "succeeded":
            self.clear(job.id)
            return
        for path in self._of(job.id).glob("*"):  # none where somebody else emptied the folder
            if path != self.result(job):
                path.unlink(missing_ok=True)

    def clear(self, job: str) -> None:
        """Erase all files of a job."""
        shutil.rmtree(self._of(job), ignore_errors=True)

    def leftovers(self) -> list[str]:
        """Return the ids of folders that are older than any upload takes: what nobody needs may be in them."""
        then = self.clock() - ABANDONED_S
        found = []
        for folder in (self._folder / "jobs").iterdir():
            try:
                if _ID.fullmatch(folder.name) and folder.stat().st_mtime < then:
                    found.append(folder.name)
            except FileNotFoundError:
                continue
        return found

    def _of(self, job: str) -> Path:
        assert _ID.fullmatch(job)
        return self._folder / "jobs" / job

    def _input(self, job: str, name: str) -> Path:
        assert _NAME.fullmatch(name)
        return self._of(job) / f"input-{name}"

    # --- how it is done ---

    @contextmanager
    def _changes(self) -> Iterator[sqlite3.Connection]:
        """Give the table inside a transaction of its own."""
        assert self._table is not None
        with _polite():
            self._table.execute("BEGIN IMMEDIATE")
            try:
                yield self._table
                self._table.execute("COMMIT")
            except BaseException:
                if self._table.in_transaction:
                    self._table.execute("ROLLBACK")
                raise

    def _held(self, job: Job, assignments: str, *values: object) -> bool:
        """Change the row of a job whose lease the caller holds; return whether it does."""
        with self._changes() as table:
            done = table.execute(
                f"UPDATE jobs SET {assignments} WHERE id = ? AND lease = ? AND state = 'running'",
                (*values, job.id, job.lease),
            )
        return done.rowcount == 1

    def _ended(self, job: Job, state: State, assignments: str, *values: object) -> bool:
        now = self.clock()
        return self._held(
            job,
            f"state = '{state}', finished = ?, expires = ?, lease_until = NULL, {assignments}",
            now,
            now + self._ttl,
            *values,
        )

    def _give_up(self, jobs: Sequence[str], problem: Mapping[str, Any], now: float) -> None:
        assert self._table is not None
        self._table.executemany(
            "UPDATE jobs SET state = 'failed', finished = ?, expires = ?, problem = ?, bytes = ?, lease = NULL,"
            " lease_until = NULL WHERE id = ?",
            [(now, now + self._ttl, json.dumps(problem), ROW_BYTES, job) for job in jobs],
        )

    def _row(self, query: str, *values: object) -> sqlite3.Row:
        assert self._table is not None
        row: sqlite3.Row = self._table.execute(query, values).fetchone()
        return row

    def _one(self, where: str, *values: object) -> Job | None:
        return next(iter(self._all(where, *values)), None)

    def _all(self, where: str, *values: object) -> list[Job]:
        assert self._table is not None
        with _polite():
            rows = self._table.execute(
                "SELECT *, (SELECT COUNT(*) FROM jobs AS other WHERE other.state = 'queued'"
                f" AND other.number <= jobs.number) AS place FROM jobs WHERE {where}",
                values,
            ).fetchall()
        jobs = (self._read(row) for row in rows)
        return [job for job in jobs if job is not None]

    def _read(self, row: sqlite3.Row) -> Job | None:
        """Return a row as a job, as it is by now: what has expired is so even before it is swept."""
        now = self.clock()
        job = Job(
            number=row["number"],
            id=row["id"],
            client=row["client"],
            task=row["task"],
            request=json.loads(row["request"]),
            state=row["state"],
            created=row["created"],
            started=row["started"],
            finished=row["finished"],
            expires=row["expires"],
            deadline=row["deadline"],
            key=row["key"],
            digest=row["digest"],
            done=row["done"],
            steps=row["steps"],
            attempts=row["attempts"],
            lease=row["lease"] or "",
            problem=row["problem"] and json.loads(row["problem"]),
            result=row["result"] and json.loads(row["result"]),
            place=row["place"] if row["state"] == "queued" else None,
        )
        if job.expires is None or now < job.expires:
            return job
        return replace(job, state="expired", problem=None, result=None) if now < job.expires + self._ttl else None


@contextmanager
def _polite() -> Iterator[None]:
    """Turn what SQLite says of a full disk or a busy database into errors of the service."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise _full() from None
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Overloaded("The jobs are busy.", retry_after=5) from None
        raise


@contextmanager
def _room() -> Iterator[None]:
    """Turn what the system says of a full disk into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full() from None


def _full(limit: int | None = None) -> StorageFull:
    return StorageFull("There is no room left for the pictures and results of jobs.", limit=limit, retry_after=600)


def _settle(file: BinaryIO) -> None:
    """Wait until the file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _settle_names(folder: Path) -> None:
    """Wait until the names in the folder are on the disk, where the system can be asked to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
