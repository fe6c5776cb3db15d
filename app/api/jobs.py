"""Jobs over HTTP: their representation, results and events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api import problems
from app.api.lifecycle import Shutdown
from app.api.problems import NotFound
from app.api.responses import FileResponse, StreamedResponse, is_known
from app.errors import JobConflict, JobExpired, Overloaded
from app.jobs.job import Job
from app.jobs.store import JobStore
from app.jobs.worker import Worker

MAX_LISTED = 100
MAX_STREAMS = 256
"""Limit of open event streams."""
POLL_S = 1.0
"""Seconds between polls of a job by those who wait for it, because another process may be running it."""
NO_JOB = "There is no job with this id. It may have been deleted."
UNCACHED = {"Cache-Control": "private, no-store"}


class JobService:
    """Shows jobs to clients, and cancels or deletes them. With `needs_key`, clients see only the jobs of their key."""

    def __init__(
        self, store: JobStore, worker: Worker, shutdown: Shutdown, *, needs_key: bool, body_timeout_s: float
    ) -> None:
        self._store = store
        self._worker = worker
        self._shutdown = shutdown
        self._needs_key = needs_key
        self._body_timeout_s = body_timeout_s
        self._streams = 0

    async def find(self, request: Request, name: str) -> Job:
        """Return a job that the client may see. Raises NotFound, JobExpired."""
        job = await self._get(request, name)
        if job.state == "expired":
            raise JobExpired("The result of this job was deleted. Send the request again.")
        return job

    async def _get(self, request: Request, name: str) -> Job:
        job = await self._worker.call(self._store.get, name)
        if job is None or (self._needs_key and job.client != request.state.client):
            raise NotFound(NO_JOB)
        return job

    async def list_newest(self, request: Request) -> dict[str, Any]:
        """Return the client's newest jobs. Raises NotFound if the service has no API keys."""
        if not self._needs_key:
            raise NotFound("This service has no API keys, so it does not list jobs. Use `GET /jobs/{id}`.")
        jobs = await self._worker.call(self._store.list_newest, request.state.client, MAX_LISTED)
        return {"jobs": [self.describe(job) for job in jobs]}

    def describe(self, job: Job) -> dict[str, Any]:
        """Return a job as `GET /jobs/{id}` shows it: the content of `schemas.Job`."""
        address = f"/jobs/{job.id}"
        links = {"self": address, "events": f"{address}/events"}
        if job.state == "succeeded":
            links["result"] = f"{address}/result"
        return {
            "id": job.id,
            "task": job.task,
            "state": job.state,
            "options": job.request["form"],
            "created": _format_time(job.created),
            "started": _format_time(job.started),
            "finished": _format_time(job.finished),
            "expires": _format_time(job.expires),
            "place": job.place,
            "progress": _progress(job),
            "done": job.done,
            "all": job.steps,
            "eta": _eta(job, self._store.clock()),
            "problem": job.problem and {**job.problem, "instance": job.id},
            "links": links,
        }

    async def read_result(self, request: Request, job: Job) -> StreamedResponse:
        """Return the result of a succeeded job, or the problem of a failed job with the status of the problem.

        Raises JobConflict for a job in another state.
        """
        if job.problem is not None:
            request.state.problem = job.problem["type"].rpartition("/")[2]
            body = json.dumps({**job.problem, "instance": request.state.request_id}).encode()
            return StreamedResponse(body, job.problem["status"], UNCACHED, problems.MEDIA_TYPE)
        if job.result is None:
            yet = "" if job.is_finished else " yet"
            raise JobConflict(f"The job is {job.state} and has no result{yet}.", value=job.state)
        try:
            file = await asyncio.to_thread(self._store.files.result_path(job).open, "rb")
        except FileNotFoundError:  # deleted by another request
            raise NotFound(NO_JOB) from None
        headers = job.result["headers"]
        return FileResponse(file, job.result["size"], headers, headers["content-type"])

    async def fetch_result(self, request: Request, job: Job) -> Response:
        """Return the response to `GET /jobs/{id}/result`; 304 if the client already has the result."""
        if job.result is not None and is_known(request.headers, _etag(job)):
            return Response(None, 304, {"ETag": _etag(job), "Cache-Control": "private, no-cache"})
        response = await self.read_result(request, job)
        if job.problem is None:
            response.headers["Cache-Control"] = "private, no-cache"
            response.headers["ETag"] = _etag(job)
        response.timeout_s = self._body_timeout_s
        return response

    async def end(self, request: Request, name: str) -> Response:
        """Cancel a queued or running job and return it; delete a finished job. Raises NotFound."""
        job = await self._get(request, name)
        if await self._worker.cancel(job.id):
            now = await self._worker.call(self._store.get, job.id)
            return JSONResponse(self.describe(now or job), headers=UNCACHED)
        await self._worker.delete(job.id)
        return Response(status_code=204)

    # --- events ---

    def check_streams(self) -> None:
        """Raise Overloaded if MAX_STREAMS streams are open, ShuttingDown if the service stops."""
        self._shutdown.check()
        if self._streams >= MAX_STREAMS:
            text = f"Too many open event streams (limit {MAX_STREAMS}). Poll `GET /jobs/{{id}}` instead."
            raise Overloaded(text, limit=MAX_STREAMS, retry_after=10)

    async def follow(self, request: Request, job: Job) -> AsyncIterator[dict[str, Any]]:
        """Yield the job whenever it changes, until it is finished or deleted, or the service stops.

        For a HEAD request, yield it once.
        """
        self._streams += 1
        try:
            with self._worker.watch(job.id) as happened:
                last: dict[str, Any] = {}
                now: Job | None = await self._worker.call(self._store.get, job.id)
                while now is not None and not self._shutdown.closing:
                    described = self.describe(now)
                    if {**described, "eta": None} != {**last, "eta": None}:
                        yield described
                        last = described
                    if now.is_finished or getattr(request.state, "head", False):
                        return
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_S):
                            await happened.wait()
                    happened.clear()
                    now = await self._worker.call(self._store.get, job.id)
        finally:
            self._streams -= 1


def _format_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _progress(job: Job) -> float:
    if job.state == "succeeded":
        return 1.0
    return round(job.done / job.steps, 4) if job.steps else 0.0


def _eta(job: Job, now: float) -> float | None:
    """Return the estimated remaining seconds of a running job, from its steps so far, or None if it is unknown."""
    if job.state != "running" or job.started is None or not job.done:
        return None
    return round(max(0.0, now - job.started) / job.done * (job.steps - job.done), 1)


def _etag(job: Job) -> str:
    return f'"{job.result["digest"][:32]}"' if job.result else ""
