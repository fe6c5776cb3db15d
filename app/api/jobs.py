"""Jobs over HTTP: who asks for one, what is answered instead of a picture, and what a job looks like."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from app.api import problems
from app.api.desk import Desk, Errand, disconnected
from app.api.forms import Upload
from app.api.problems import MalformedRequest, NotFound
from app.api.responses import FileParcel, Parcel, is_known
from app.errors import DeadlineExceeded, IdempotencyMismatch, JobConflict, JobExpired, Overloaded, ShuttingDown
from app.jobs.job import Job, NewJob
from app.jobs.store import JobStore
from app.jobs.worker import Worker

MOST_LISTED = 100
MOST_STREAMS = 256
"""Streams of events that may be open at once."""
PATIENCE_S = 1.0
"""Seconds after which whoever waits for a job looks again by itself: another process may be running it."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_UNCACHED = {"Cache-Control": "private, no-store"}


@dataclass(frozen=True, slots=True)
class Preference:
    """What the header `Prefer` asks for, as far as it is known here."""

    respond_async: bool = False
    wait: float | None = None

    @property
    def given(self) -> bool:
        """Whether anything is asked for."""
        return self.respond_async or self.wait is not None

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied`."""
        waited = [] if self.wait is None else [f"wait={self.wait:g}"]
        return ", ".join([*(["respond-async"] if self.respond_async else []), *waited])


def preference(headers: Headers, longest: float) -> Preference:
    """Return what `Prefer` asks for. Of a preference that comes twice the first counts; what cannot be read does not.

    Nobody waits longer than `longest` seconds.
    """
    found: dict[str, str] = {}
    for part in ",".join(headers.getlist("prefer")).split(","):
        name, _, value = part.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    seconds = min(float(wait), longest) if re.fullmatch("[0-9]{1,9}", wait) else None
    return Preference("respond-async" in found, seconds)


def idempotency_key(headers: Headers) -> str | None:
    """Return the header `Idempotency-Key`. Raises MalformedRequest for one that is none."""
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        text = "The header Idempotency-Key must be 1 to 255 visible ASCII characters."
        raise MalformedRequest(text, field="Idempotency-Key", value=key)
    return key


class Jobs:
    """Turns requests into jobs and tells of them. `closed`: callers have keys, and see their own jobs only."""

    def __init__(self, desk: Desk, store: JobStore, worker: Worker, *, closed: bool) -> None:
        self._desk = desk
        self._store = store
        self._worker = worker
        self._closed = closed
        self._streams = 0
        self._arriving = 0

    # --- a request that may become a job ---

    async def take(self, request: Request, errand: Errand, patience: float) -> Parcel | None:
        """Answer `request` as a job, None if it asks for none. `patience` is what `Cancel-After` allows, in seconds.

        Raises what is wrong with the errand as far as it can be told now, JobsFull, StorageFull, JobConflict,
        IdempotencyMismatch, DeadlineExceeded, and ClientDisconnect; a job goes on without its sender.
        """
        longest = self._desk.settings.request_timeout_s
        wanted = preference(request.headers, longest)
        key = idempotency_key(request.headers)
        if not wanted.given and key is None:
            return None
        digest = await asyncio.to_thread(_digest, errand) if key is not None else ""
        client = request.state.client
        job = await self._worker.call(self._store.find_by_key, client, key) if key is not None else None
        fresh = job is None
        if job is None:
            job, fresh = await self._queued(errand, client, key, digest, patience)
        if job.digest != digest:
            text = "This Idempotency-Key was used with another path or Accept, other options or another picture."
            raise IdempotencyMismatch(text, field="Idempotency-Key", value=key)
        if not fresh and not wanted.given and not job.is_finished:
            text = "A request with this Idempotency-Key is under way. Repeat it with Prefer: wait=20 to wait for it."
            raise JobConflict(text, field="Idempotency-Key", value=key)
        seconds = wanted.wait if wanted.wait is not None else 0.0 if wanted.respond_async else longest
        return await self._answered(request, job, wanted, seconds)

    async def _queued(
        self, errand: Errand, client: str, key: str | None, digest: str, patience: float
    ) -> tuple[Job, bool]:
        """Return the new job, or that of the same key that came just before, and whether it is new."""
        await self._desk.measure(errand)
        size = sum(upload.size for upload in errand.uploads.values())
        # Before megabytes are written, those that others are writing counted in.
        await self._worker.call(self._store.check_capacity, self._arriving + size)
        order = NewJob(
            client=client,
            task=errand.endpoint.task,
            request={
                "form": errand.form.model_dump(mode="json", exclude_unset=True),
                "names": {name: upload.filename for name, upload in errand.uploads.items()},
                "accept": errand.accept,
            },
            digest=digest,
            key=key,
            deadline=None if math.isinf(patience) else self._store.clock() + patience,
        )
        files = {name: upload.file for name, upload in errand.uploads.items()}
        self._arriving += size
        try:
            await asyncio.to_thread(self._store.files.save_inputs, order.id, files)
            job, fresh = await self._worker.call(self._store.add, order, size)
        except Exception:  # whoever is cancelled does not know how it went: what is nobody's is erased later
            await asyncio.to_thread(self._store.files.delete, order.id)
            raise
        finally:
            self._arriving -= size
        if not fresh:
            await asyncio.to_thread(self._store.files.delete, order.id)
        self._worker.wake()
        return job, fresh

    async def _answered(self, request: Request, job: Job, wanted: Preference, seconds: float) -> Parcel:
        """Wait for the job, so many seconds at most, and return its result, or the job where it is not done."""
        now = await self._awaited(request, job, seconds)
        if now is not None and now.is_finished:
            parcel = await self.result(request, now)
            if wanted.wait is not None:
                parcel.headers["Preference-Applied"] = wanted.applied
            return parcel
        if now is None:
            raise JobConflict("The job was erased while its result was waited for.")
        if wanted.given:
            return self._accepted(now, wanted)
        if self._desk.closing:
            text = "The service is stopping. The job goes on with its next start: repeat the request then."
            raise ShuttingDown(text, retry_after=5)
        raise DeadlineExceeded(
            f"The answer was not ready in {seconds:.3g} seconds. Its job goes on: repeat the request with the same "
            "Idempotency-Key."
        )

    def _accepted(self, job: Job, wanted: Preference) -> Parcel:
        headers = {**_UNCACHED, "Location": f"/jobs/{job.id}", "Preference-Applied": wanted.applied}
        return Parcel(json.dumps(self.told(job)).encode(), 202, headers, "application/json")

    async def _awaited(self, request: Request, job: Job, seconds: float) -> Job | None:
        """Return the job when it is over, at the latest in so many seconds, when the service stops, or None: erased."""
        gone = asyncio.create_task(disconnected(request))
        until = time.monotonic() + seconds
        now: Job | None = job
        try:
            with self._worker.watch(job.id) as happened:
                while now is not None and not now.is_finished and time.monotonic() < until and not self._desk.closing:
                    left = min(PATIENCE_S, until - time.monotonic())
                    changed = asyncio.create_task(happened.wait())
                    await asyncio.wait({gone, changed}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    changed.cancel()
                    if gone.done():
                        raise ClientDisconnect
                    happened.clear()
                    now = await self._worker.call(self._store.get, job.id)
        finally:
            gone.cancel()
        return now

    # --- what is told of a job ---

    async def visible(self, request: Request, name: str) -> Job:
        """Return a job that the caller may see. Raises NotFound, and JobExpired."""
        job = await self._seen(request, name)
        if job.state == "expired":
            raise JobExpired("The job's result is no longer kept. Send the request again.")
        return job

    async def _seen(self, request: Request, name: str) -> Job:
        job = await self._worker.call(self._store.get, name)
        if job is None or (self._closed and job.client != request.state.client):
            raise NotFound("There is no such job.")
        return job

    async def listed(self, request: Request) -> list[dict[str, Any]]:
        """Return the caller's newest jobs. Raises NotFound where callers have no keys to tell them apart by."""
        if not self._closed:
            raise NotFound("Jobs are listed only where API keys are set: without them, whoever has a job's id owns it.")
        jobs = await self._worker.call(self._store.list_newest, request.state.client, MOST_LISTED)
        return [self.told(job) for job in jobs]

    def told(self, job: Job) -> dict[str, Any]:
        """Return a job as JSON can hold it."""
        address = f"/jobs/{job.id}"
        links = {"self": address, "events": f"{address}/events"}
        if job.state == "succeeded":
            links["result"] = f"{address}/result"
        return {
            "id": job.id,
            "task": job.task,
            "state": job.state,
            "options": job.request["form"],
            "created": _moment(job.created),
            "started": _moment(job.started),
            "finished": _moment(job.finished),
            "expires": _moment(job.expires),
            "place": job.place,
            "progress": _share(job),
            "done": job.done,
            "all": job.steps,
            "eta": _eta(job, self._store.clock()),
            "problem": job.problem and {**job.problem, "instance": job.id},
            "links": links,
        }

    async def result(self, request: Request, job: Job) -> Parcel:
        """Return the result of a job that succeeded, or the problem of one that failed, with its status.

        Raises JobConflict where there is none, or not yet.
        """
        if job.problem is not None:
            request.state.problem = job.problem["type"].rpartition("/")[2]
            body = json.dumps({**job.problem, "instance": request.state.request_id}).encode()
            return Parcel(body, job.problem["status"], _UNCACHED, problems.MEDIA_TYPE)
        if job.result is None:
            raise JobConflict(f"The job is {job.state}: there is no result.", value=job.state)
        try:
            file = await asyncio.to_thread(self._store.files.result_path(job).open, "rb")
        except FileNotFoundError:  # erased in this moment
            raise NotFound("There is no such job.") from None
        told = job.result["headers"]
        return FileParcel(file, job.result["size"], told, told["content-type"])

    async def fetched(self, request: Request, job: Job) -> Response:
        """Return the result as `GET` does: 304 for a caller that has it."""
        if job.result is not None and is_known(request.headers, _etag(job)):
            return Response(None, 304, {"ETag": _etag(job), "Cache-Control": "private, no-cache"})
        parcel = await self.result(request, job)
        if job.problem is None:
            parcel.headers["Cache-Control"] = "private, no-cache"
            parcel.headers["ETag"] = _etag(job)
        parcel.timeout_s = self._desk.settings.body_timeout_s
        return parcel

    async def end(self, request: Request, name: str) -> Response:
        """Cancel a job that waits or runs, and return it; erase one that is over. Raises NotFound."""
        job = await self._seen(request, name)
        if await self._worker.cancel(job.id):
            now = await self._worker.call(self._store.get, job.id)
            return JSONResponse(self.told(now or job), headers=_UNCACHED)
        await self._worker.delete(job.id)
        return Response(status_code=204)

    # --- events ---

    def check_streams(self) -> None:
        """Raise Overloaded where as many streams are open as may be."""
        if self._desk.closing:
            raise ShuttingDown("The service is stopping.", retry_after=5)
        if self._streams >= MOST_STREAMS:
            text = f"{MOST_STREAMS} streams of events are open, which is as many as may be."
            raise Overloaded(text, limit=MOST_STREAMS, retry_after=10)

    async def followed(self, request: Request, job: Job) -> AsyncIterator[dict[str, Any]]:
        """Yield the job whenever something has changed, until it is over, is erased, or the service stops.

        Who asks for headers only gets no more than one.
        """
        self._streams += 1
        try:
            with self._worker.watch(job.id) as happened:
                last: dict[str, Any] = {}
                now: Job | None = await self._worker.call(self._store.get, job.id)
                while now is not None and not self._desk.closing:
                    told = self.told(now)
                    if {**told, "eta": None} != {**last, "eta": None}:
                        yield told
                        last = told
                    if now.is_finished or getattr(request.state, "head", False):
                        return
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PATIENCE_S):
                            await happened.wait()
                    happened.clear()
                    now = await self._worker.call(self._store.get, job.id)
        finally:
            self._streams -= 1


def _digest(errand: Errand) -> str:
    """Return what tells this request from another: path, options, what is accepted and pictures, not files' names."""
    form = errand.form.model_dump(mode="json", exclude_unset=True)
    whole = hashlib.sha256(json.dumps([errand.endpoint.task, form, errand.accept or "*/*"], sort_keys=True).encode())
    for name, upload in sorted(errand.uploads.items()):
        whole.update(f"\n{name} {_digest_of(upload)}".encode())
    return whole.hexdigest()


def _digest_of(upload: Upload) -> str:
    digest = hashlib.sha256()
    upload.file.seek(0)
    while chunk := upload.file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _share(job: Job) -> float:
    if job.state == "succeeded":
        return 1.0
    return round(job.done / job.steps, 4) if job.steps else 0.0


def _eta(job: Job, now: float) -> float | None:
    """Return the seconds that a running job needs yet, if its steps go on as they did; None where nobody can tell."""
    if job.state != "running" or job.started is None or not job.done:
        return None
    return round(max(0.0, now - job.started) / job.done * (job.steps - job.done), 1)


def _etag(job: Job) -> str:
    return f'"{job.result["digest"][:32]}"' if job.result else ""
