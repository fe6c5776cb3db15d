"""Queues a request as a job if it asks for that, and responds with the job, or with the result if it is ready."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time

from starlette.requests import ClientDisconnect, Request

from app.api.jobs import POLL_S, UNCACHED, JobService
from app.api.lifecycle import Shutdown, wait_for_disconnect
from app.api.negotiation import Preference, parse_idempotency_key, parse_prefer
from app.api.responses import StreamedResponse
from app.errors import DeadlineExceeded, IdempotencyMismatch, JobConflict, ShuttingDown
from app.jobs.job import Job, NewJob
from app.jobs.store import JobStore
from app.jobs.worker import Worker
from app.pipeline import ImagePipeline, ImageRequest, Upload


class JobDispatcher:
    """Queues requests as jobs. A response waits at most `longest` seconds for its job."""

    def __init__(
        self,
        jobs: JobService,
        pipeline: ImagePipeline,
        store: JobStore,
        worker: Worker,
        shutdown: Shutdown,
        *,
        longest: float,
    ) -> None:
        self._jobs = jobs
        self._pipeline = pipeline
        self._store = store
        self._worker = worker
        self._shutdown = shutdown
        self._longest = longest
        self._arriving = 0

    async def dispatch(self, request: Request, image_request: ImageRequest, patience: float) -> StreamedResponse | None:
        """Return the response of `request` as a job, or None if it does not ask for one.

        `patience` is `Cancel-After` in seconds. Raises errors that are found before the task runs, JobsFull,
        StorageFull, JobConflict, IdempotencyMismatch, DeadlineExceeded, and ClientDisconnect, after which the job
        continues.
        """
        longest = self._longest
        prefer = parse_prefer(request.headers, longest)
        key = parse_idempotency_key(request.headers)
        if not prefer.given and key is None:
            return None
        digest = await asyncio.to_thread(_digest, image_request) if key is not None else ""
        client = request.state.client
        job = await self._worker.call(self._store.find_by_key, client, key) if key is not None else None
        fresh = job is None
        if job is None:
            job, fresh = await self._enqueue(image_request, client, key, digest, patience)
        if job.digest != digest:
            text = "This `Idempotency-Key` was used for a different request: path, `Accept`, options or pictures "
            "differ."
            raise IdempotencyMismatch(text, field="Idempotency-Key", value=key)
        if not fresh and not prefer.given and not job.is_finished:
            text = "A request with this `Idempotency-Key` is in progress. Repeat it with `Prefer: wait=20` to wait "
            "for it."
            raise JobConflict(text, field="Idempotency-Key", value=key)
        seconds = prefer.wait if prefer.wait is not None else 0.0 if prefer.respond_async else longest
        return await self._wait_and_answer(request, job, prefer, seconds)

    async def _enqueue(
        self, image_request: ImageRequest, client: str, key: str | None, digest: str, patience: float
    ) -> tuple[Job, bool]:
        """Return the new job and True, or an existing job with the same key and False."""
        await self._pipeline.measure(image_request, client)
        size = sum(upload.size for upload in image_request.uploads.values())
        # Before the files are written; files that other requests are writing count, too.
        await self._worker.call(self._store.check_capacity, self._arriving + size)
        new = NewJob(
            client=client,
            task=image_request.task.name,
            request={
                "form": image_request.options.model_dump(mode="json", exclude_unset=True),
                "names": {name: upload.filename for name, upload in image_request.uploads.items()},
                "accept": image_request.accept,
            },
            digest=digest,
            key=key,
            deadline=None if math.isinf(patience) else self._store.clock() + patience,
        )
        files = {name: upload.file for name, upload in image_request.uploads.items()}
        self._arriving += size
        try:
            await asyncio.to_thread(self._store.files.save_inputs, new.id, files)
            job, fresh = await self._worker.call(self._store.add, new, size)
        except Exception:  # not if cancelled: the job may have been added; orphans are deleted later
            await asyncio.to_thread(self._store.files.delete, new.id)
            raise
        finally:
            self._arriving -= size
        if not fresh:
            await asyncio.to_thread(self._store.files.delete, new.id)
        self._worker.wake()
        return job, fresh

    async def _wait_and_answer(
        self, request: Request, job: Job, prefer: Preference, seconds: float
    ) -> StreamedResponse:
        """Wait at most `seconds` for the job, and return its result, or the job if it is not finished."""
        now = await self._wait(request, job, seconds)
        if now is not None and now.is_finished:
            response = await self._jobs.read_result(request, now)
            if now.result is not None:  # the job stays until it expires; its client can delete it
                response.headers["Content-Location"] = f"/jobs/{now.id}/result"
            if prefer.wait is not None:
                response.headers["Preference-Applied"] = prefer.applied
            return response
        if now is None:
            raise JobConflict("The job was deleted before it finished.")
        if prefer.given:
            return self._answer_accepted(now, prefer)
        if self._shutdown.closing:
            text = "The service is shutting down. The job continues after a restart: repeat the request then."
            raise ShuttingDown(text, retry_after=5)
        raise DeadlineExceeded(
            f"The result was not ready after {seconds:.3g} seconds. Its job continues: repeat the request with the "
            "same `Idempotency-Key`."
        )

    def _answer_accepted(self, job: Job, prefer: Preference) -> StreamedResponse:
        headers = {**UNCACHED, "Location": f"/jobs/{job.id}", "Preference-Applied": prefer.applied}
        return StreamedResponse(json.dumps(self._jobs.describe(job)).encode(), 202, headers, "application/json")

    async def _wait(self, request: Request, job: Job, seconds: float) -> Job | None:
        """Return the job when it is finished, after `seconds`, or when the service stops; None if it was deleted."""
        gone = asyncio.create_task(wait_for_disconnect(request))
        until = time.monotonic() + seconds
        now: Job | None = job
        try:
            with self._worker.watch(job.id) as happened:
                while (
                    now is not None and not now.is_finished and time.monotonic() < until and not self._shutdown.closing
                ):
                    left = min(POLL_S, until - time.monotonic())
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


def _digest(request: ImageRequest) -> str:
    """Return a digest of the request: path, options, `Accept` and pictures, but not file names."""
    form = request.options.model_dump(mode="json", exclude_unset=True)
    whole = hashlib.sha256(json.dumps([request.task.name, form, request.accept or "*/*"], sort_keys=True).encode())
    for name, upload in sorted(request.uploads.items()):
        whole.update(f"\n{name} {_hash_file(upload)}".encode())
    return whole.hexdigest()


def _hash_file(upload: Upload) -> str:
    digest = hashlib.sha256()
    upload.file.seek(0)
    while chunk := upload.file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()
