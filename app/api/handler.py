"""Handles picture requests: reads the form, queues a job or runs the task, and cancels it if the client disconnects."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.api import negotiation, responses
from app.api.forms import make_request, read_form
from app.api.job_dispatch import JobDispatcher
from app.api.lifecycle import Shutdown, wait_for_disconnect
from app.api.responses import StreamedResponse
from app.engine.protocol import RequestContext
from app.errors import DeadlineExceeded
from app.limits.body import read_body
from app.limits.concurrency import ConcurrencyLimit
from app.pipeline import ImagePipeline, ImageRequest
from app.settings import Settings
from app.tasks.base import Task

R = TypeVar("R")


class ImageHandler:
    """The handler of all picture endpoints."""

    def __init__(
        self,
        settings: Settings,
        pipeline: ImagePipeline,
        jobs: JobDispatcher,
        concurrency: ConcurrencyLimit,
        shutdown: Shutdown,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._jobs = jobs
        self._concurrency = concurrency
        self._shutdown = shutdown
        self._numbers = itertools.count(1)

    async def handle(self, request: Request, task: Task[Any]) -> Response:
        """Return the result of `task`, or the job for it. The request counts as concurrent until its response is sent.

        Raises ServiceError, and ClientDisconnect. Processing is cancelled if the client disconnects or the deadline
        passes.
        """
        self._shutdown.check()
        release = self._concurrency.acquire(request.state.client)
        try:
            response = await self._shutdown.guard(self._respond(request, task))
        except BaseException:
            release()
            raise
        response.timeout_s, response.on_sent = self._settings.body_timeout_s, release
        return response

    async def _respond(self, request: Request, task: Task[Any]) -> StreamedResponse:
        arrived = time.monotonic()
        patience = negotiation.parse_cancel_after(request.headers.get("cancel-after"))
        body = read_body(
            request.receive,
            request.headers,
            max_bytes=self._settings.max_upload_mb * 2**20,
            timeout_s=self._settings.body_timeout_s,
        )
        async with read_form(request.headers, body, task) as (form, uploads):
            accept = ", ".join(request.headers.getlist("accept")) or None
            image_request = make_request(task, form, uploads, accept)
            if form.returns_table:
                negotiation.check_table(accept, form.format)
            if model := self._pipeline.find_model(image_request):
                request.state.model = model
            if response := await self._jobs.dispatch(request, image_request, patience):
                return response
            deadline = min(arrived + patience, time.monotonic() + self._settings.request_timeout_s)
            # The engine identifies requests by this id, so clients must not be able to choose it.
            unique = f"{request.state.request_id}#{next(self._numbers)}"
            context = RequestContext(unique, request.state.client, deadline)
            return await self._watch(request, self._run(image_request, context), deadline - arrived, deadline)

    async def _run(self, image_request: ImageRequest, context: RequestContext) -> StreamedResponse:
        encoded = await self._pipeline.run(image_request, context)
        return await responses.build(encoded, image_request)

    async def _watch(self, request: Request, work: Coroutine[Any, Any, R], allowed: float, deadline: float) -> R:
        """Return the result of `work`; cancel it at the deadline or when the client disconnects.

        A cancelled `work` is not awaited: its threads cannot be stopped, and release their resources when they end.
        """
        running = self._shutdown.start(work)
        gone = asyncio.create_task(wait_for_disconnect(request))
        try:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.wait({running, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if gone.done():
                raise ClientDisconnect
            raise DeadlineExceeded(f"The result was not ready after {allowed:.3g} seconds. Processing was cancelled.")
        finally:
            running.cancel()
            gone.cancel()
