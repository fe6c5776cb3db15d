"""The job queue, a table in SQLite. Independent of HTTP and of the event loop; the files of jobs are in `files.py`.

A job is `queued`, then `running`, then `succeeded`, `failed` or `cancelled`, and later `expired`. A worker that claims
a job gets a lease, a random token with an expiry, and must renew it. When the lease expires, the job is queued again,
and updates with the old lease are rejected.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.errors import JobsFull, Overloaded, StorageFull
from app.jobs.files import JobFiles, storage_full
from app.jobs.job import JOB_ID, Job, NewJob, State
from app.jobs.reserve import WAL_PAGES, Reserve, uses_reserve
from app.private_files import make_private, make_private_folder, open_private

LEASE_S = 10.0
"""Seconds after which a job whose lease was not renewed is queued again."""
MAX_ATTEMPTS = 3
"""How often an interrupted job is started before it fails."""
ROW_BYTES = 4096
"""Bytes that a job counts for besides its files, so that the limit on disk space also limits the rows."""
_SCHEMA_VERSION = 1
_FINISHED = "('succeeded', 'failed', 'cancelled')"

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
    """The folder for jobs cannot be used. The message is one line, shown when the service starts."""


class JobStore:
    """The table of jobs in `folder`/jobs.sqlite3. Call `open` first; use it from one thread at a time.

    At most `max_jobs` jobs are queued or running, and all jobs with their files take at most `max_bytes`. A finished
    job is kept for `ttl` seconds, and listed as expired for `ttl` seconds more. `clock` returns seconds since 1970.
    `files` are the files of the jobs. Several processes may open the same folder.

    On a full disk no job is added, and all other updates use `reserve`, which is taken again when there is room.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_jobs: int = 100,
        max_bytes: int = 2**32,
        ttl: float = 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._ttl = ttl
        self.clock = clock
        self.files = JobFiles(folder, clock)
        self.reserve = Reserve(folder)
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the database, creating it if it does not exist. Does nothing if it is open. Raises JobStoreError."""
        if self._connection is not None:
            return
        try:
            self._make_folders()
            connection, version = self._connect()
        except (OSError, sqlite3.Error, StorageFull) as error:
            raise JobStoreError(f"cannot store jobs in {self._folder}: {error}") from None
        if version > _SCHEMA_VERSION:
            connection.close()
            raise JobStoreError(f"the job database in {self._folder} was written by a newer version")
        self._connection = connection
        self.reserve.restore()

    def _make_folders(self) -> None:
        """Make the folders, and take the rights of other users from what an earlier version left there."""
        make_private_folder(self._folder)
        make_private_folder(self._folder / "jobs")
        for path in [*self._folder.glob("jobs.sqlite3*"), *(self._folder / "jobs").rglob("*")]:
            make_private(path)

    @uses_reserve
    def _connect(self) -> tuple[sqlite3.Connection, int]:
        """Return a connection to the database, created if it does not exist, and the version of its schema."""
        path = self._folder / "jobs.sqlite3"
        with suppress(FileExistsError):
            open_private(path, "xb").close()  # SQLite gives its other files the rights of this one
        connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            with _sqlite_errors():
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")  # a job that was answered with 202 survives a power cut
                connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
                connection.execute("BEGIN IMMEDIATE")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in filter(str.strip, _SCHEMA.split(";")):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection, version

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def add(self, new_job: NewJob, size: int) -> tuple[Job, bool]:
        """Queue a job whose input files, `size` bytes in all, are saved. Return it and True.

        If the client already has a job with the same key, return that job and False. Raises JobsFull, StorageFull.
        """
        now = self.clock()
        with self._transaction() as connection:
            if new_job.key is not None:
                # An expired job no longer holds its key.
                connection.execute(
                    "UPDATE jobs SET key = NULL WHERE client = ? AND key = ? AND expires <= ?",
                    (new_job.client, new_job.key, now),
                )
                existing = self._find_one("client = ? AND key = ?", new_job.client, new_job.key)
                if existing is not None:
                    return existing, False
            self.check_capacity(size)
            connection.execute(
                "INSERT INTO jobs (id, client, task, request, state, created, deadline, key, digest, bytes)"
                " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?)",
                (
                    new_job.id,
                    new_job.client,
                    new_job.task,
                    json.dumps(new_job.request),
                    now,
                    new_job.deadline,
                    new_job.key,
                    new_job.digest,
                    size + ROW_BYTES,
                ),
            )
            added = self._find_one("id = ?", new_job.id)
        assert added is not None
        return added, True

    def check_capacity(self, size: int) -> None:
        """Raise JobsFull or StorageFull if one more job with files of `size` bytes exceeds a limit."""
        (active,) = self._row("SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')")
        if active >= self._max_jobs:
            text = f"The job queue is full: {active} jobs are queued or running."
            raise JobsFull(text, limit=self._max_jobs, retry_after=30)
        self.check_disk_space(size + ROW_BYTES)
        if not self.restore_reserve():  # the disk is full
            raise storage_full()

    def restore_reserve(self) -> bool:
        """Take the reserve again after a full disk, if there is room. Return whether there is a reserve now."""
        return self.reserve.restore()

    def check_disk_space(self, size: int) -> None:
        """Raise StorageFull if `size` more bytes exceed the limit."""
        (used,) = self._row("SELECT COALESCE(SUM(bytes), 0) FROM jobs")
        if used + size > self._max_bytes:
            raise storage_full(limit=self._max_bytes)

    def get(self, job_id: str) -> Job | None:
        """Return the job with this id, or None."""
        return self._find_one("id = ?", job_id) if JOB_ID.fullmatch(job_id) else None

    def find_by_key(self, client: str, key: str) -> Job | None:
        """Return the unexpired job of this client with this idempotency key, or None."""
        found = self._find_one("client = ? AND key = ?", client, key)
        return found if found is not None and found.state != "expired" else None

    def list_newest(self, client: str, limit: int) -> list[Job]:
        """Return up to `limit` jobs of the client, newest first."""
        return self._find_all("client = ? ORDER BY number DESC LIMIT ?", client, limit)

    @uses_reserve
    def claim_next(self) -> Job | None:
        """Lease the job that has been queued longest, and return it as running, or None if none is queued."""
        now = self.clock()
        with self._transaction() as connection:
            row = connection.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1").fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1, done = 0, steps = 0,"
                " lease = ?, lease_until = ? WHERE id = ?",
                (now, secrets.token_hex(8), now + LEASE_S, row["id"]),
            )
            return self._find_one("id = ?", row["id"])

    def renew(self, job: Job, done: int, steps: int) -> bool:
        """Extend the lease of a claimed job and record its progress. Return False if the lease was lost."""
        return self._update_leased(job, "done = ?, steps = ?, lease_until = ?", done, steps, self.clock() + LEASE_S)

    def succeed(self, job: Job, result: Mapping[str, Any], size: int, steps: int = 0) -> bool:
        """Finish a claimed job whose result of `size` bytes is saved. Return False if the lease was lost."""
        return self._finish(
            job,
            "succeeded",
            "result = ?, bytes = ?, done = ?, steps = ?",
            json.dumps(result),
            size + ROW_BYTES,
            steps,
            steps,
        )

    def fail(self, job: Job, problem: Mapping[str, Any]) -> bool:
        """Finish a claimed job with an error. Return False if the lease was lost."""
        return self._finish(job, "failed", "problem = ?, bytes = ?", json.dumps(problem), ROW_BYTES)

    def release(self, job: Job) -> bool:
        """Queue a claimed job again without counting the attempt. Return False if the lease was lost."""
        return self._update_leased(
            job,
            "state = 'queued', started = NULL, attempts = attempts - 1, done = 0, steps = 0, lease = NULL,"
            " lease_until = NULL",
        )

    @uses_reserve
    def cancel(self, job_id: str) -> bool:
        """Cancel a queued or running job. Return False if it is neither."""
        now = self.clock()
        with self._transaction() as connection:
            cursor = connection.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, expires = ?, bytes = ?, lease = NULL,"
                " lease_until = NULL WHERE id = ? AND state IN ('queued', 'running')",
                (now, now + self._ttl, ROW_BYTES, job_id),
            )
        return cursor.rowcount == 1

    @uses_reserve
    def delete(self, job_id: str) -> bool:
        """Delete the row of a finished job, not its files. Return False if there is no such job."""
        with self._transaction() as connection:
            cursor = connection.execute(
                "DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", (job_id,)
            )
        return cursor.rowcount == 1

    @uses_reserve
    def expire(
        self, held_leases: Collection[str], *, interrupted: Mapping[str, Any], late: Mapping[str, Any]
    ) -> tuple[list[str], list[str]]:
        """Apply all timeouts; return the ids of jobs whose state changed, and of those whose files can be deleted.

        Running jobs with an expired lease, unless in `held_leases`, are queued again; after MAX_ATTEMPTS they fail with
        the problem `interrupted`. Queued jobs past their deadline fail with the problem `late`. Finished jobs expire.
        """
        now = self.clock()
        with self._transaction() as connection:
            lost = [
                row
                for row in connection.execute(
                    "SELECT id, lease, attempts, lease_until FROM jobs WHERE state = 'running'"
                )
                # A lease that ends later than LEASE_S from now was written when the clock was wrong.
                if row["lease"] not in held_leases and not now < row["lease_until"] <= now + LEASE_S
            ]
            exhausted = [row["id"] for row in lost if row["attempts"] >= MAX_ATTEMPTS]
            retried = [row["id"] for row in lost if row["attempts"] < MAX_ATTEMPTS]
            connection.executemany(
                "UPDATE jobs SET state = 'queued', started = NULL, done = 0, steps = 0, lease = NULL,"
                " lease_until = NULL WHERE id = ?",
                [(job_id,) for job_id in retried],
            )
            rows = connection.execute("SELECT id FROM jobs WHERE state = 'queued' AND deadline <= ?", (now,))
            overdue = [row["id"] for row in rows]
            self._fail_all(exhausted, interrupted, now)
            self._fail_all(overdue, late, now)
            rows = connection.execute(
                f"UPDATE jobs SET state = 'expired', key = NULL, problem = NULL, result = NULL, bytes = {ROW_BYTES}"
                f" WHERE state IN {_FINISHED} AND expires <= ? RETURNING id",
                (now,),
            )
            expired = [row["id"] for row in rows]
            connection.execute("DELETE FROM jobs WHERE state = 'expired' AND expires <= ?", (now - self._ttl,))
        return [*retried, *exhausted, *overdue], [*exhausted, *overdue, *expired]

    def list_past_expiry(self) -> list[str]:
        """Return the ids of the jobs that `expire` would expire: nobody can get their results any more."""
        assert self._connection is not None
        query = f"SELECT id FROM jobs WHERE state IN {_FINISHED} AND expires <= ?"
        return [row["id"] for row in self._connection.execute(query, (self.clock(),))]

    def list_finished(self) -> list[Job]:
        """Return the finished jobs that are not expired."""
        return [job for job in self._find_all(f"state IN {_FINISHED}") if job.state != "expired"]

    def count_by_state(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        assert self._connection is not None
        return dict(self._connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())

    def find_oldest_queued(self) -> float | None:
        """Return when the oldest queued job was created, in seconds since 1970, or None if none is queued."""
        created: float | None = self._row("SELECT MIN(created) FROM jobs WHERE state = 'queued'")[0]
        return created

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a transaction, rolled back on an exception. Raises StorageFull, Overloaded."""
        assert self._connection is not None
        with _sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @uses_reserve
    def _update_leased(self, job: Job, assignments: str, *values: object) -> bool:
        """Update the row of a running job. Return False if `job.lease` is not its lease any more."""
        with self._transaction() as connection:
            cursor = connection.execute(
                f"UPDATE jobs SET {assignments} WHERE id = ? AND lease = ? AND state = 'running'",
                (*values, job.id, job.lease),
            )
        return cursor.rowcount == 1

    def _finish(self, job: Job, state: State, assignments: str, *values: object) -> bool:
        """Set a final state and when it expires. Return False if the lease was lost."""
        now = self.clock()
        return self._update_leased(
            job,
            f"state = '{state}', finished = ?, expires = ?, lease_until = NULL, {assignments}",
            now,
            now + self._ttl,
            *values,
        )

    def _fail_all(self, job_ids: Sequence[str], problem: Mapping[str, Any], now: float) -> None:
        assert self._connection is not None
        self._connection.executemany(
            "UPDATE jobs SET state = 'failed', finished = ?, expires = ?, problem = ?, bytes = ?, lease = NULL,"
            " lease_until = NULL WHERE id = ?",
            [(now, now + self._ttl, json.dumps(problem), ROW_BYTES, job_id) for job_id in job_ids],
        )

    def _row(self, query: str, *values: object) -> sqlite3.Row:
        assert self._connection is not None
        row: sqlite3.Row = self._connection.execute(query, values).fetchone()
        return row

    def _find_one(self, where: str, *values: object) -> Job | None:
        return next(iter(self._find_all(where, *values)), None)

    def _find_all(self, where: str, *values: object) -> list[Job]:
        assert self._connection is not None
        with _sqlite_errors():
            rows = self._connection.execute(
                "SELECT *, (SELECT COUNT(*) FROM jobs AS other WHERE other.state = 'queued'"
                f" AND other.number <= jobs.number) AS place FROM jobs WHERE {where}",
                values,
            ).fetchall()
        jobs = (self._to_job(row) for row in rows)
        return [job for job in jobs if job is not None]

    def _to_job(self, row: sqlite3.Row) -> Job | None:
        """Return a row as a job, or None if it is past its expiry by `ttl`; it may be expired before `expire` ran."""
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
def _sqlite_errors() -> Iterator[None]:
    """Turn SQLite's errors for a full disk into StorageFull and for a busy database into Overloaded."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise storage_full() from None
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise Overloaded("The job database is busy.", retry_after=5) from None
        raise
