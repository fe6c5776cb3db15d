"""The way of a picture through the service, from the form to the answer: the same for every picture endpoint."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.api import forms, limits, responses
from app.api.admission import Admission
from app.api.forms import PictureForm, Upload
from app.api.limits import PixelBudget
from app.api.metrics import Metrics
from app.api.responses import Parcel
from app.engine.protocol import ModelServer, RequestContext
from app.errors import DeadlineExceeded, Overloaded, ServiceError, ShuttingDown
from app.imaging import codec
from app.imaging.codec import Output
from app.imaging.picture import Picture
from app.settings import Settings
from app.tasks.answer import Answer

F = TypeVar("F", bound=PictureForm)
P = ParamSpec("P")
R = TypeVar("R")

Work = Callable[[F, dict[str, Picture], RequestContext], Awaitable[Answer]]
"""What an endpoint does with its form and its pictures, by field."""
ROOM = 3
"""A caller may have so many times as many pictures here as there is room left for: three quarters of all, alone."""
Sizes = Mapping[str, int]
"""Pixels of the pictures that came, by field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[F]):
    """What a picture endpoint takes and does: the form `kind`, and `work` on what came in it.

    `enlarged` is how many times wider the picture gets. `outline` shows the kind of picture that will be answered: a
    format that cannot hold it is refused at once. `check` raises what is wrong with a form and the sizes of its
    pictures, as far as that can be told without decoding them.
    """

    task: str
    kind: type[F]
    work: Work[F]
    enlarged: Callable[[F], int] = lambda _: 1
    outline: Callable[[F, dict[str, Picture]], Picture] = lambda _, pictures: pictures["image"]
    check: Callable[[F, Sizes], None] = lambda _, __: None


@dataclass(frozen=True, slots=True)
class Errand:
    """One form as it came to an endpoint, and what its sender accepts."""

    endpoint: Endpoint[Any]
    form: PictureForm
    uploads: Mapping[str, Upload]
    accept: str | None

    @property
    def enlarged(self) -> int:
        """How many times wider the picture gets."""
        return self.endpoint.enlarged(self.form)


Defer = Callable[[Request, Errand, float], Awaitable[Parcel | None]]
"""Answers a request as a job if that is what it asks for, with its patience in seconds; None if it does not."""


class Desk:
    """Takes requests with a picture and answers them, within the limits that the settings set."""

    def __init__(self, settings: Settings, engine: ModelServer, metrics: Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.budget = PixelBudget(settings.decoded_megapixels)
        self.admission = Admission(engine.latency, devices=lambda: engine.worker_count)
        self.closing = False
        self.endpoints: dict[str, Endpoint[Any]] = {}
        self.defer: Defer | None = None
        self._here: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._work: set[asyncio.Task[Parcel]] = set()
        self._limits: set[asyncio.Timeout] = set()

    def open(self, endpoint: Endpoint[F]) -> Endpoint[F]:
        """Make an endpoint known to jobs, which come back to it by the name of its task. Returns it."""
        self.endpoints[endpoint.task] = endpoint
        return endpoint

    async def serve(self, request: Request, endpoint: Endpoint[F]) -> Response:
        """Return the answer to `request`: form, pictures, work, bytes; or the job that it has become.

        Raises whatever ServiceError is met on the way, and ClientDisconnect; the work of a caller that went away
        or whose time is up is cancelled. A request is here until its answer was sent.
        """
        if self.closing:
            raise ShuttingDown("The service is stopping.", retry_after=5)
        client, limit = request.state.client, self.settings.max_requests
        # Dynamic thresholds (Choudhury & Hahne, 1998): however many one caller sends, there is room for others.
        if self._here[client] >= ROOM * (limit - self.here):
            text = f"As many pictures are here already as may be: {limit} of all callers together, fewer of one."
            raise Overloaded(text, limit=limit, retry_after=self.budget.seconds_ahead())
        self._here[client] += 1
        left = partial(self._left, client)
        try:
            parcel = await self._until_the_end(self._serve(request, endpoint))
        except BaseException:
            left()
            raise
        parcel.timeout_s, parcel.sent = self.settings.body_timeout_s, left
        return parcel

    @property
    def here(self) -> int:
        """Requests with a picture that are here: on their way in or out, waiting, or worked on."""
        return self._here.total()

    def _left(self, client: str) -> None:
        self._here[client] -= 1
        if not self._here[client]:
            del self._here[client]

    def end_in(self, seconds: float) -> asyncio.TimerHandle:
        """Answer whatever will be under way in so many seconds with ShuttingDown, unless the handle is cancelled."""

        def end() -> None:
            for limit in self._limits:
                limit.reschedule(0)

        return asyncio.get_running_loop().call_later(seconds, end)

    async def _until_the_end(self, going: Coroutine[Any, Any, Parcel]) -> Parcel:
        """Return what `going` returns. Raises ShuttingDown when the service ends first."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                return await going
        except TimeoutError:
            if not limit.expired():
                raise
            raise ShuttingDown("The service stopped before the answer was ready.", retry_after=5) from None
        finally:
            self._limits.discard(limit)

    async def _serve(self, request: Request, endpoint: Endpoint[F]) -> Parcel:
        arrived = time.monotonic()
        patience = limits.cancel_after(request.headers.get("cancel-after"))
        body = limits.read_body(
            request.receive,
            request.headers,
            max_bytes=self.settings.max_upload_mb * 2**20,
            timeout_s=self.settings.body_timeout_s,
        )
        async with forms.read_form(request.headers, body, endpoint.kind) as (form, uploads):
            accept = ", ".join(request.headers.getlist("accept")) or None
            errand = Errand(endpoint, form, uploads, accept)
            model = self.model_of(errand)
            if model:
                request.state.model = model
            if self.defer is not None:
                parcel = await self.defer(request, errand, patience)
                if parcel is not None:
                    return parcel
            deadline = min(arrived + patience, time.monotonic() + self.settings.request_timeout_s)
            # The engine tells requests apart by this id: it must not be one that a caller can choose.
            unique = f"{request.state.request_id}#{next(self._numbers)}"
            context = RequestContext(unique, request.state.client, deadline)
            going = self.make(errand, context, self.budget)
            return await self._watched(request, going, deadline - arrived, deadline)

    def model_of(self, errand: Errand) -> str:
        """Return the id of the model that is needed, empty where none is. Raises what is wrong with the form so far."""
        form = errand.form
        if form.wants_table:
            responses.check_table(errand.accept, form.format)
        return self.engine.find(errand.endpoint.task, form.model_name).id if form.needs_model else ""

    async def measure(self, errand: Errand) -> Sizes:
        """Return the pixels of each picture. Raises whatever can be wrong that is seen without decoding one."""
        most = self.settings.max_pixels
        # Each file is let go again and stays on disk while its turn has not come.
        sizes = {name: await _on_thread(_measured, upload, most, name) for name, upload in errand.uploads.items()}
        errand.endpoint.check(errand.form, sizes)
        return sizes

    async def drain(self) -> None:
        """Wait until the work that was left behind (cancelled, but on a thread still) is done."""
        while self._work:
            await asyncio.wait(self._work)

    async def make(self, errand: Errand, context: RequestContext, budget: PixelBudget) -> Parcel:
        """Return what an errand asks for, done for `caller` within `budget`. Raises whatever ServiceError is met."""
        clock = _Stages()
        sizes = await self.measure(errand)
        clock.lap("decode")
        if not errand.form.needs_device:  # it has nothing to wait for there, and nobody there waits for it
            return await self._made(errand, sizes, context, budget, clock)
        kind = f"{self.model_of(errand) or errand.endpoint.task} ×{errand.enlarged}"
        mark = await _on_thread(_marks, errand.uploads)
        with self.admission.enter(kind, sizes["image"], context, mark) as due:
            return await self._made(errand, sizes, replace(context, due=due), budget, clock)

    async def _made(
        self, errand: Errand, sizes: Sizes, context: RequestContext, budget: PixelBudget, clock: _Stages
    ) -> Parcel:
        endpoint, form, uploads, enlarged = errand.endpoint, errand.form, errand.uploads, errand.enlarged
        task, most = endpoint.task, self.settings.max_pixels
        enveloped = responses.wants_envelope(errand.accept)
        accept = None if enveloped else errand.accept
        extra = sizes["image"] * enlarged**2
        async with budget.hold((sum(sizes.values()) + extra) / 1e6, context.client):
            clock.lap("queue")
            pictures = {name: await _on_thread(_decoded, upload, most, name) for name, upload in uploads.items()}
            picture = pictures["image"]
            self.metrics.pixels.labels(task).inc(picture.width * picture.height)
            # What cannot be is refused before the work.
            if not form.wants_table:
                codec.choose_format(_as_large(endpoint.outline(form, pictures), enlarged), form.format, accept)
            clock.lap("decode")
            answer = await endpoint.work(form, pictures, context)
            clock.lap("task")
            if answer.table is not None:
                timing = self._timing(answer, task, clock)
                return responses.table(answer, timing, responses.headers(answer, answer.picture.warnings, timing, ""))
            output = replace(form.encoding, format=codec.choose_format(answer.picture, form.format, accept))
            body, content_type, lost = await _on_thread(_encoded, answer.picture, output)
            notes = (*answer.picture.warnings, *lost)
            clock.lap("encode")
            timing = self._timing(answer, task, clock)
            name = responses.result_name(uploads["image"].filename, task, content_type)
            told = responses.headers(answer, notes, timing, name)
            if enveloped:
                return await _on_thread(responses.envelope, answer, notes, body, content_type, timing, told)
            return responses.picture(body, content_type, told)

    def _timing(self, answer: Answer, task: str, clock: _Stages) -> dict[str, float]:
        """Return the seconds by stage, and count them."""
        timing = {
            "decode": clock.seconds["decode"],
            **answer.seconds,
            "queue": clock.seconds["queue"] + answer.seconds.get("queue", 0.0),
            "encode": clock.seconds.get("encode", 0.0),
        }
        for stage, seconds in timing.items():
            self.metrics.stages.labels(task, stage).observe(seconds)
        return timing

    async def _watched(
        self, request: Request, going: Coroutine[Any, Any, Parcel], allowed: float, deadline: float
    ) -> Parcel:
        """Return what `going` returns, unless its time is up or its caller goes away first: then it is cancelled.

        It is not awaited then: a thread cannot be stopped, and what it holds is given back when it is done.
        """
        work = asyncio.create_task(going)
        self._work.add(work)
        work.add_done_callback(self._forget)
        gone = asyncio.create_task(disconnected(request))
        try:
            left = max(0.0, deadline - time.monotonic())
            await asyncio.wait({work, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientDisconnect
            raise DeadlineExceeded(
                f"The answer was not ready in {allowed:.3g} seconds; its work was taken off the queue."
            )
        finally:
            work.cancel()
            gone.cancel()

    def _forget(self, work: asyncio.Task[Parcel]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # seen: whoever waited for it may be gone


class _Stages:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self._then = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage; the same one may come again."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._then
        self._then = now


def _decoded(upload: Upload, max_pixels: int, field: str) -> Picture:
    with _about(field):
        return codec.decode(upload.read(), max_pixels=max_pixels)


def _marks(uploads: Mapping[str, Upload]) -> Hashable:
    return tuple(sorted((name, upload.mark()) for name, upload in uploads.items()))


def _measured(upload: Upload, max_pixels: int, field: str) -> int:
    """Return how many pixels the picture has."""
    with _about(field):
        width, height = codec.measure(upload.read(), max_pixels=max_pixels)
    return width * height


@contextmanager
def _about(field: str) -> Iterator[None]:
    """Let an error of the codec name the form's field that it is about."""
    try:
        yield
    except ServiceError as error:
        error.field = error.field and field
        raise


def _as_large(picture: Picture, times: int) -> Picture:
    """Return a picture of one pixel repeated, without its memory: as large as what becomes of `picture`."""
    height, width = picture.height * times, picture.width * times
    alpha = None if picture.alpha is None else np.broadcast_to(picture.alpha[:1, :1], (height, width))
    return picture.with_pixels(np.broadcast_to(picture.pixels[:1, :1], (height, width, picture.channels)), alpha)


def _encoded(picture: Picture, output: Output) -> tuple[bytes, str, tuple[str, ...]]:
    return *codec.encode(picture, output), codec.list_losses(picture, output)


async def disconnected(request: Request) -> None:
    """Return when the caller has gone away. Its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` on a thread. When cancelled, wait for it all the same: it cannot be stopped and holds memory."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise
