"""Runs jobs, a few at once, on the event loop: takes them from the store, holds their leases, and keeps what they give.

It knows no HTTP: what running a job means, and how an error is told, is given to it.
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
from app.errors import DeadlineExceeded, JobInterrupted, ServiceError
from app.jobs.store import ABANDONED_S, LEASE_S, Job, Store

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

LOOK_S = 1.0
"""Seconds between two looks at the table for what other processes and time have brought."""
BEAT_S = 0.5
"""Seconds between two looks at how far a job is."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a job gives: its bytes, and what `GET` has to know about them, as JSON can hold it."""

    body: bytes | memoryview
    about: Mapping[str, Any]


Run = Callable[[Job, Mapping[str, Path], Progress], Awaitable[Result]]
"""Does a job with its pictures, by field. Cancelled, it ends; whatever it raises is the job's failure."""
Explain = Callable[[Exception], dict[str, Any]]
"""Tells of an error as the job's problem."""


class Worker:
    """Runs the jobs of `store`, at most `at_once` at a time. Several processes may work on one store."""

    def __init__(self, store: Store, run: Run, explain: Explain, *, at_once: int = 1) -> None:
        self.store = store
        self.ended: Counter[str] = Counter()
        """How many jobs ended here, by state."""
        self.counts: Mapping[str, int] = {}
        """How many jobs there are, by state, as of the last look."""
        self._run = run
        self._explain = explain
        self._at_once = at_once
        self._table = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._woken = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False
        self._running: dict[str, _Running] = {}
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def ask(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method of the store on the one thread that its table is for, which nothing slow holds up."""
        return await asyncio.get_running_loop().run_in_executor(self._table, partial(method, *args, **kwargs))

    async def start(self) -> None:
        """Open the store and begin. Raises StoreError."""
        await self.ask(self.store.open)
        self._loop = asyncio.create_task(self._look_again_and_again())

    async def stop(self) -> None:
        """Stop: what runs is queued again, for whoever comes next."""
        self._stopping = True
        self.wake()
        if self._loop is not None:
            await self._loop  # not cancelled: it might be about to take a job
        for running in self._running.values():
            running.work.cancel()
        while self._running:
            await asyncio.wait({running.whole for running in self._running.values()})
        await self.ask(self.store.close)
        self._table.shutdown()

    def wake(self) -> None:
        """Say that there is a new job."""
        self._woken.set()

    async def cancel(self, job: str) -> bool:
        """Cancel a job that waits or runs; its work is taken off the queue. False: it does neither."""
        done = await self.ask(self.store.cancel, job)
        if done:
            self.ended["cancelled"] += 1
            running = self._running.get(job)
            if running is not None:
                running.work.cancel()
            else:
                await asyncio.to_thread(self.store.clear, job)
            self._tell(job)
        return done

    async def erase(self, job: str) -> bool:
        """Forget a job that is over, and its files. False: there is no such job."""
        done = await self.ask(self.store.erase, job)
        if done:
            await asyncio.to_thread(self.store.clear, job)
            self._tell(job)
        return done

    @contextmanager
    def watching(self, job: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever something happens to the job here. Other processes are not heard."""
        event = asyncio.Event()
        self._watchers[job].add(event)
        try:
            yield event
        finally:
            self._watchers[job].discard(event)
            if not self._watchers[job]:
                del self._watchers[job]

    def _tell(self, job: str) -> None:
        for event in self._watchers.get(job, ()):
            event.set()

    async def _look_again_and_again(self) -> None:
        tidy_at = 0.0
        while not self._stopping:
            try:
                if time.monotonic() >= tidy_at:
                    tidy_at = time.monotonic() + ABANDONED_S  # however it goes: no job waits for a file to be erased
                    await self._tidy_up()
                await self._look()
            except Exception:  # a full disk or a busy table will pass; the jobs must not wait for a restart then
                log.exception("jobs cannot be looked after")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()
            self._woken.clear()

    async def _look(self) -> None:
        """Do what time brings, and begin what there is room for."""
        holds = [running.job.lease for running in self._running.values()]
        text = "The service ended in the middle of this job again and again."
        changed, over = await self.ask(
            self.store.sweep,
            holds,
            interrupted=self._explain(JobInterrupted(text)),
            late=self._explain(DeadlineExceeded("The job was not begun in the time that Cancel-After allowed.")),
        )
        for job in changed:
            self._tell(job)
        for job in over:
            await asyncio.to_thread(self.store.clear, job)
        while len(self._running) < self._at_once and not self._stopping:
            taken = await self.ask(self.store.take)
            if taken is None:
                break
            self._begin(taken)
        self.counts = await self.ask(self.store.counts)

    async def _tidy_up(self) -> None:
        """Erase files that an end in the middle left behind."""
        for job in await self.ask(self.store.over):
            await asyncio.to_thread(self.store.tidy, job)
        for name in await asyncio.to_thread(self.store.leftovers):
            if await self.ask(self.store.get, name) is None:
                await asyncio.to_thread(self.store.clear, name)

    def _begin(self, job: Job) -> None:
        progress = Progress()
        work = asyncio.ensure_future(self._run(job, self.store.inputs(job.id), progress))
        whole = asyncio.create_task(self._see_through(job, work, progress))
        self._running[job.id] = _Running(job, work, whole)
        self._tell(job.id)

    async def _see_through(self, job: Job, work: asyncio.Future[Result], progress: Progress) -> None:
        """Hold the lease while the job runs, and keep what it gives, whatever that is."""
        try:
            await self._hold(job, work, progress)
            await self._settle(job, work, progress)
        except Exception:  # the table could not be written: the lease lapses, and the job is queued again
            log.exception("job was not settled", job=job.id)
        finally:
            del self._running[job.id]
            self._tell(job.id)
            self.wake()

    async def _hold(self, job: Job, work: asyncio.Future[Result], progress: Progress) -> None:
        """Wait for the end of `work`, renewing the lease; cancel it when the lease is lost."""
        told = (0, 0)
        quiet = 0.0
        while True:
            await asyncio.wait({work}, timeout=BEAT_S)
            if work.done():
                return
            quiet += BEAT_S
            now = (min(progress.done, progress.all), progress.all)
            if now == told and quiet < LEASE_S / 4:
                continue
            try:
                if not await self.ask(self.store.renew, job, *now):
                    work.cancel()
                told, quiet = now, 0.0
                self._tell(job.id)
            except Exception:  # whatever SQLite says of a disk in trouble: the work goes on, and so must who holds it
                log.exception("lease was not renewed", job=job.id)

    async def _settle(self, job: Job, work: asyncio.Future[Result], progress: Progress) -> None:
        if work.cancelled():
            # Stopped, cancelled or lost: nothing happens to a job that is not the caller's any more.
            if not await self.ask(self.store.release, job):
                await asyncio.to_thread(self._clear_cancelled, await self.ask(self.store.get, job.id))
            return
        try:
            result = work.result()
            size = len(result.body)
            await self.ask(self.store.check_size, size)
            digest = await asyncio.to_thread(self.store.write_result, job, result.body)
            about = {**result.about, "digest": digest, "size": size}
            kept = await self.ask(self.store.succeed, job, about, size, progress.all)
            state = "succeeded"
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.exception("job failed", job=job.id)
            kept = await self.ask(self.store.fail, job, self._explain(error))
            state = "failed"
        if kept:
            self.ended[state] += 1
            log.info("job done", job=job.id, task=job.task, state=state)
        now = await self.ask(self.store.get, job.id)
        if now is not None and now.over:
            await asyncio.to_thread(self.store.tidy, now)

    def _clear_cancelled(self, job: Job | None) -> None:
        if job is not None and job.over:
            self.store.tidy(job)


@dataclass(frozen=True, slots=True)
class _Running:
    """A job that runs here: its `work`, and the `whole` of holding it and keeping what it gives."""

    job: Job
    work: asyncio.Future[Result]
    whole: asyncio.Task[None]
