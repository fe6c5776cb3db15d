"""Runs jobs on the event loop: claims them from the store, renews their leases and stores their results.

Independent of HTTP: how to run a job and how to describe an error are passed in as functions.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import structlog

from app.engine.protocol import Progress
from app.errors import DeadlineExceeded, JobInterrupted, ServiceError, StorageFull
from app.jobs.files import ORPHAN_AGE_S
from app.jobs.job import Job
from app.jobs.store import LEASE_S, JobStore

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

POLL_S = 1.0
"""Seconds between polls of the table, for timeouts and for changes by other processes."""
PROGRESS_S = 0.5
"""Seconds between checks of a job's progress."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a job: its bytes, and metadata about them (such as response headers) as JSON types."""

    body: bytes | memoryview
    metadata: Mapping[str, Any]


Run = Callable[[Job, Mapping[str, Path], Progress], Awaitable[JobResult]]
"""Runs a job with its input pictures, by form field. May be cancelled; an exception fails the job."""
DescribeError = Callable[[Exception], dict[str, Any]]
"""Returns the problem (RFC 9457, as JSON types) for an exception."""


class Worker:
    """Runs the jobs of `store`, at most `concurrency` at a time. Several processes may share one store."""

    def __init__(self, store: JobStore, run: Run, describe_error: DescribeError, *, concurrency: int = 1) -> None:
        self.store = store
        self.finished_counts: Counter[str] = Counter()
        """Number of jobs that this worker finished, by state."""
        self.counts: Mapping[str, int] = {}
        """Number of jobs in the store, by state, as of the last poll."""
        self._oldest_queued: float | None = None
        self._run = run
        self._describe_error = describe_error
        self._concurrency = concurrency
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._wake_event = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._running: dict[str, _Running] = {}
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    @property
    def oldest_queued_seconds(self) -> float:
        """Age of the oldest queued job in seconds, as of the last poll; 0 if none is queued."""
        return 0.0 if self._oldest_queued is None else max(0.0, self.store.clock() - self._oldest_queued)

    async def call(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method of the store on its own thread, which must not be blocked by slow work."""
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, partial(method, *args, **kwargs))

    async def start(self) -> None:
        """Open the store and start to run jobs. Raises JobStoreError."""
        await self.call(self.store.open)
        self._loop_task = asyncio.create_task(self._poll_forever())

    async def stop(self) -> None:
        """Stop claiming jobs, and queue the running ones again for the next start."""
        self._is_stopping = True
        self.wake()
        if self._loop_task is not None:
            await self._loop_task  # not cancelled, because it may be claiming a job
        for running in self._running.values():
            running.run.cancel()
        while self._running:
            await asyncio.wait({running.supervisor for running in self._running.values()})
        await self.call(self.store.close)
        self._store_thread.shutdown()

    def wake(self) -> None:
        """Poll now, because a job was added."""
        self._wake_event.set()

    async def cancel(self, job_id: str) -> bool:
        """Cancel a queued or running job and delete its files. Return False if it is neither."""
        cancelled = await self.call(self.store.cancel, job_id)
        if cancelled:
            self.finished_counts["cancelled"] += 1
            running = self._running.get(job_id)
            if running is not None:
                running.run.cancel()
            else:
                await asyncio.to_thread(self.store.files.delete, job_id)
            self._notify(job_id)
        return cancelled

    async def delete(self, job_id: str) -> bool:
        """Delete a finished job and its files. Return False if there is no such job."""
        try:
            deleted = await self.call(self.store.delete, job_id)
        except StorageFull:  # its files make room for the table
            job = await self.call(self.store.get, job_id)
            if job is not None and job.is_finished:
                await asyncio.to_thread(self.store.files.delete, job_id)
            deleted = await self.call(self.store.delete, job_id)
        if deleted:
            await asyncio.to_thread(self.store.files.delete, job_id)
            self._notify(job_id)
        return deleted

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the job changes in this process; other processes do not set it."""
        event = asyncio.Event()
        self._watchers[job_id].add(event)
        try:
            yield event
        finally:
            self._watchers[job_id].discard(event)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def _notify(self, job_id: str) -> None:
        """Set the events of all who watch the job."""
        for event in self._watchers.get(job_id, ()):
            event.set()

    async def _poll_forever(self) -> None:
        next_cleanup = 0.0
        while not self._is_stopping:
            try:
                if time.monotonic() >= next_cleanup:
                    next_cleanup = (
                        time.monotonic() + ORPHAN_AGE_S
                    )  # set first: a failing cleanup must not stop the jobs
                    await self._delete_orphans()
                await self._poll()
            except Exception:  # a full disk or a busy database is temporary, and must not stop the loop
                log.exception("job polling failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake_event.wait()
            self._wake_event.clear()

    async def _poll(self) -> None:
        """Apply timeouts, and start as many jobs as `concurrency` allows."""
        held_leases = [running.job.lease for running in self._running.values()]
        text = "The service stopped too often while running this job."
        expire = partial(
            self.store.expire,
            held_leases,
            interrupted=self._describe_error(JobInterrupted(text)),
            late=self._describe_error(DeadlineExceeded("The job did not start within the time set by `Cancel-After`.")),
        )
        try:
            changed, deletable = await self.call(expire)
        except StorageFull:  # the files of expired jobs make room for the table
            for job_id in await self.call(self.store.list_past_expiry):
                await asyncio.to_thread(self.store.files.delete, job_id)
            changed, deletable = await self.call(expire)
        for job_id in changed:
            self._notify(job_id)
        # Of the jobs that changed, those whose files can be deleted have failed; the others are queued again.
        if failed := len(set(changed) & set(deletable)):
            self.finished_counts["failed"] += failed
        for job_id in deletable:
            await asyncio.to_thread(self.store.files.delete, job_id)
        await self.call(self.store.restore_reserve)
        while len(self._running) < self._concurrency and not self._is_stopping:
            job = await self.call(self.store.claim_next)
            if job is None:
                break
            self._start(job)
        self.counts = await self.call(self.store.count_by_state)
        self._oldest_queued = await self.call(self.store.find_oldest_queued)

    async def _delete_orphans(self) -> None:
        """Delete files that a crash left behind."""
        for job in await self.call(self.store.list_finished):
            await asyncio.to_thread(self.store.files.cleanup, job)
        for job_id in await asyncio.to_thread(self.store.files.find_old_folders):
            if await self.call(self.store.get, job_id) is None:
                await asyncio.to_thread(self.store.files.delete, job_id)

    def _start(self, job: Job) -> None:
        progress = Progress()
        run = asyncio.ensure_future(self._run(job, self.store.files.find_inputs(job.id), progress))
        supervisor = asyncio.create_task(self._supervise(job, run, progress))
        self._running[job.id] = _Running(job, run, supervisor)
        self._notify(job.id)

    async def _supervise(self, job: Job, run: asyncio.Future[JobResult], progress: Progress) -> None:
        """Renew the lease while the job runs, then store its result or its error."""
        try:
            await self._hold_lease(job, run, progress)
            await self._store_outcome(job, run, progress)
        except Exception:  # the database is not writable: the lease expires, and the job is queued again
            log.exception("job outcome was not stored", job=job.id)
        finally:
            del self._running[job.id]
            self._notify(job.id)
            self.wake()

    async def _hold_lease(self, job: Job, run: asyncio.Future[JobResult], progress: Progress) -> None:
        """Wait until `run` is done, renewing the lease; cancel it if the lease is lost."""
        reported = (0, 0)
        since_renewal = 0.0
        while True:
            await asyncio.wait({run}, timeout=PROGRESS_S)
            if run.done():
                return
            since_renewal += PROGRESS_S
            current = (min(progress.done, progress.all), progress.all)
            if current == reported and since_renewal < LEASE_S / 4:
                continue
            try:
                if not await self.call(self.store.renew, job, *current):
                    run.cancel()
                reported, since_renewal = current, 0.0
                self._notify(job.id)
            except Exception:  # SQLite reports disk errors in many ways: the job goes on, and renewing must go on
                log.exception("job lease was not renewed", job=job.id)

    async def _store_outcome(self, job: Job, run: asyncio.Future[JobResult], progress: Progress) -> None:
        """Store the result or the error of a finished run; queue the job again if the run was cancelled by a stop."""
        if run.cancelled():
            # By a stop, by a client, or because the lease was lost; `release` changes nothing in the latter cases.
            if not await self.call(self.store.release, job):
                await asyncio.to_thread(self._delete_cancelled, await self.call(self.store.get, job.id))
            return
        try:
            result = run.result()
            size = len(result.body)
            await self.call(self.store.check_disk_space, size)
            digest = await asyncio.to_thread(self.store.files.save_result, job, result.body)
            metadata = {**result.metadata, "digest": digest, "size": size}
            is_stored = await self.call(self.store.succeed, job, metadata, size, progress.all)
            state = "succeeded"
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.exception("job failed", job=job.id)
            is_stored = await self.call(self.store.fail, job, self._describe_error(error))
            state = "failed"
        if is_stored:
            self.finished_counts[state] += 1
            log.info("job finished", job=job.id, task=job.task, state=state)
        current = await self.call(self.store.get, job.id)
        if current is not None and current.is_finished:
            await asyncio.to_thread(self.store.files.cleanup, current)

    def _delete_cancelled(self, job: Job | None) -> None:
        if job is not None and job.is_finished:
            self.store.files.cleanup(job)


@dataclass(frozen=True, slots=True)
class _Running:
    """A running job, its `run`, and the `supervisor` that renews the lease and stores the outcome."""

    job: Job
    run: asyncio.Future[JobResult]
    supervisor: asyncio.Task[None]
