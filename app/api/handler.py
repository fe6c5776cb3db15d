"""Handles picture requests: reads them, queues a job or runs the task, and cancels it if the client disconnects."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.api import negotiation, responses
from app.api.forms import read_request
from app.api.job_dispatch import JobDispatcher
from app.api.lifecycle import Shutdown, wait_for_disconnect
from app.api.responses import StreamedResponse
from app.engine.protocol import RequestContext
from app.errors import DeadlineExceeded
from app.limits.body import read_body
from app.limits.concurrency import ConcurrencyLimit
from app.pipeline import Encoded, ImagePipeline, ImageRequest
from app.settings import Settings
from app.tasks.base import Task

R = TypeVar("R")

Read = Callable[[Headers, AsyncGenerator[bytes, None]], AbstractAsyncContextManager[ImageRequest]]
"""Reads a request from its headers and its body."""
Build = Callable[[Encoded, ImageRequest], Awaitable[StreamedResponse]]
"""Builds the response with a result."""


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
        """Return the result of `task`, or the job for it.

        Raises ServiceError, and ClientDisconnect. Processing is cancelled if the client disconnects or the deadline
        passes.
        """
        return await self._admit(request, partial(self._dispatch_or_run, request, partial(read_request, task=task)))

    async def translate(self, request: Request, read: Read, build: Build) -> Response:
        """Return the result of a request in the format of another service, which `read` and `build` translate.

        The limits are those of `handle`, and so are the errors; there are no jobs.
        """
        return await self._admit(request, partial(self._read_and_run, request, read, build))

    async def _admit(self, request: Request, respond: Callable[[], Coroutine[Any, Any, StreamedResponse]]) -> Response:
        """Return what `respond` returns. The request counts as concurrent until its response is sent."""
        self._shutdown.check()
        release = self._concurrency.acquire(request.state.client)
        try:
            response = await self._shutdown.guard(respond())
        except BaseException:
            release()
            raise
        response.timeout_s, response.on_sent = self._settings.body_timeout_s, release
        return response

    async def _dispatch_or_run(self, request: Request, read: Read) -> StreamedResponse:
        arrived = time.monotonic()
        patience = negotiation.parse_cancel_after(request.headers.get("cancel-after"))
        async with read(request.headers, self.read_body(request)) as image_request:
            self._note_model(request, image_request)
            if response := await self._jobs.dispatch(request, image_request, patience):
                return response
            return await self._run(request, image_request, responses.build, arrived, patience)

    async def _read_and_run(self, request: Request, read: Read, build: Build) -> StreamedResponse:
        arrived = time.monotonic()
        async with read(request.headers, self.read_body(request)) as image_request:
            self._note_model(request, image_request)
            return await self._run(request, image_request, build, arrived, math.inf)

    def read_body(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the body of a request within the limits of the settings, with the errors of `limits.body`."""
        return read_body(
            request.receive,
            request.headers,
            max_bytes=self._settings.max_upload_mb * 2**20,
            timeout_s=self._settings.body_timeout_s,
        )

    def _note_model(self, request: Request, image_request: ImageRequest) -> None:
        """Note the model for the log. Raises UnknownModel, ModelUnavailable."""
        if model := self._pipeline.find_model(image_request):
            request.state.model = model

    async def _run(
        self, request: Request, image_request: ImageRequest, build: Build, arrived: float, patience: float
    ) -> StreamedResponse:
        """Return the result, within `patience` seconds since the request `arrived`."""
        deadline = min(arrived + patience, time.monotonic() + self._settings.request_timeout_s)
        # The engine identifies requests by this id, so clients must not be able to choose it.
        unique = f"{request.state.request_id}#{next(self._numbers)}"
        context = RequestContext(unique, request.state.client, deadline)

        async def work() -> StreamedResponse:
            return await build(await self._pipeline.run(image_request, context), image_request)

        return await self._watch(request, work(), deadline - arrived, deadline)

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
