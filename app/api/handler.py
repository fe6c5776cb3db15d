"""Answers a request with a picture: reads the form, makes it a job or does it, and watches for its client leaving."""

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
    """The handler of every picture endpoint."""

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
        """Return the answer of `task`, or the job that the request became. It counts as here until it was sent.

        Raises whatever ServiceError is met, and ClientDisconnect; the work of a client that went away, or whose time
        is up, is cancelled.
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
            # The engine tells requests apart by this id: it must not be one that a client can choose.
            unique = f"{request.state.request_id}#{next(self._numbers)}"
            context = RequestContext(unique, request.state.client, deadline)
            return await self._watch(request, self._run(image_request, context), deadline - arrived, deadline)

    async def _run(self, image_request: ImageRequest, context: RequestContext) -> StreamedResponse:
        encoded = await self._pipeline.run(image_request, context)
        return await responses.build(encoded, image_request)

    async def _watch(self, request: Request, work: Coroutine[Any, Any, R], allowed: float, deadline: float) -> R:
        """Return what `work` returns, unless its time is up or its client leaves first: then it is cancelled.

        It is not awaited then: a thread cannot be stopped, and what it holds is given back when it is done.
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
            raise DeadlineExceeded(
                f"The answer was not ready in {allowed:.3g} seconds; its work was taken off the queue."
            )
        finally:
            running.cancel()
            gone.cancel()
