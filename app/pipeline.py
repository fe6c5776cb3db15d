"""The way of a picture, from uploaded files to encoded bytes: measure, admit, decode, run the task, encode.

Requests and jobs both take it. Knows no HTTP beyond the value of `Accept`.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar

import numpy as np

from app import media_types
from app.engine.protocol import ModelServer, RequestContext
from app.errors import ResultTooLarge, ServiceError
from app.imaging import codec
from app.imaging.codec import Output
from app.imaging.picture import Picture
from app.limits.admission import Admission
from app.limits.pixel_budget import PixelBudget
from app.tasks.base import Sizes, Task, TaskOptions, TaskResult

_FINGERPRINT_BYTES = 64 * 1024

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a request: on disk, if it is large, until it is read."""

    file: BinaryIO
    size: int
    filename: str

    def read(self) -> bytes:
        """Return the file's bytes. Reads from disk: call it on a thread."""
        self.file.seek(0)
        return self.file.read()

    def fingerprint(self) -> tuple[int, int]:
        """Return what tells this file from nearly every other: its size, and a checksum of its end, where pictures in
        compressed formats differ. Reads from disk: call it on a thread."""
        self.file.seek(max(0, self.size - _FINGERPRINT_BYTES))
        return self.size, zlib.crc32(self.file.read())


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A task to do on the pictures in `uploads` (by field). `output` says how the result is encoded; its format may be
    `auto`, which `accept`, the value of the header, decides."""

    task: Task[Any]
    options: TaskOptions
    output: Output
    uploads: Mapping[str, Upload]
    accept: str | None

    @property
    def wants_json(self) -> bool:
        """Whether the picture is to be sent in base64 inside a JSON object."""
        return media_types.prefers_json(self.accept)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The result of an ImageRequest: the bytes of a picture, or a `table`, and what there is to say about it.

    `model` is its id, empty where none was used; `seconds` is the time by stage; `width` and `height` are the
    picture's, in pixels.
    """

    body: bytes
    media_type: str
    filename: str
    width: int
    height: int
    model: str
    decisions: dict[str, str]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    table: dict[str, Any] | None = None


class Observer(Protocol):
    """What counts the work of a pipeline: the metrics."""

    def count_pixels(self, task: str, pixels: int) -> None:
        """Count the pixels of a decoded picture."""

    def observe_stage(self, task: str, stage: str, seconds: float) -> None:
        """Take in how long a stage of a request took."""


class ImagePipeline:
    """Does requests with the models of `engine`, within the limits of pixels and of the device's time.

    `max_pixels` bounds each picture that comes in, `max_output_pixels` the result. `budget` is the room for decoded
    pictures of requests.
    """

    def __init__(
        self,
        engine: ModelServer,
        observer: Observer,
        *,
        budget: PixelBudget,
        max_pixels: int,
        max_output_pixels: int,
    ) -> None:
        self.engine = engine
        self.budget = budget
        self.admission = Admission(engine.latency, devices=lambda: engine.worker_count)
        self._observer = observer
        self._max_pixels = max_pixels
        self._max_output_pixels = max_output_pixels

    async def run(self, request: ImageRequest, context: RequestContext, budget: PixelBudget | None = None) -> Encoded:
        """Return the result of `request`, done for `context` within `budget` (that of requests, unless given).

        Raises whatever ServiceError the request meets.
        """
        clock = _StageClock()
        sizes = await self.measure(request)
        clock.lap("decode")
        budget = budget or self.budget
        if not request.options.uses_device:  # it does not wait for the device, and delays nobody there
            return await self._process(request, sizes, context, budget, clock)
        kind = f"{self.find_model(request) or request.task.name} ×{request.options.scale_factor}"
        fingerprint = await run_in_thread(_fingerprint, request.uploads)
        with self.admission.enter(kind, sizes["image"], context, fingerprint) as due:
            return await self._process(request, sizes, replace(context, due=due), budget, clock)

    def find_model(self, request: ImageRequest) -> str:
        """Return the id of the model that the request needs, empty where it needs none. Raises UnknownModel,
        ModelUnavailable."""
        options = request.options
        return self.engine.find(request.task.name, options.model_name).id if options.needs_model else ""

    async def measure(self, request: ImageRequest) -> Sizes:
        """Return the pixels of each picture. Raises every error that is seen without decoding one."""
        # Each file is read and let go again: it stays on disk while its turn has not come.
        sizes = {
            field: await run_in_thread(_measure, upload, self._max_pixels, field)
            for field, upload in request.uploads.items()
        }
        request.task.check(request.options, sizes, self.engine)
        self._check_result_size(sizes["image"], request.options.scale_factor)
        return sizes

    def _check_result_size(self, pixels: int, scale: int) -> None:
        result = pixels * scale**2
        if scale > 1 and result > self._max_output_pixels:
            raise ResultTooLarge(
                f"The picture has {pixels} pixels and {scale}² times as many would be {result}; the limit is "
                f"{self._max_output_pixels}. Choose a smaller scale or picture.",
                field="scale",
                value=result,
                limit=self._max_output_pixels,
            )

    async def _process(
        self, request: ImageRequest, sizes: Sizes, context: RequestContext, budget: PixelBudget, clock: _StageClock
    ) -> Encoded:
        task, options, scale = request.task, request.options, request.options.scale_factor
        accept = None if request.wants_json else request.accept
        async with budget.hold((sum(sizes.values()) + sizes["image"] * scale**2) / 1e6, context.client):
            clock.lap("queue")
            pictures = {
                field: await run_in_thread(_decode, upload, self._max_pixels, field)
                for field, upload in request.uploads.items()
            }
            picture = pictures["image"]
            self._observer.count_pixels(task.name, picture.width * picture.height)
            if not options.returns_table:  # a format that cannot hold the result is refused before the work
                outline = _enlarge_outline(task.outline(options, pictures), scale)
                codec.choose_format(outline, request.output.format, accept)
            clock.lap("decode")
            further = {field: further for field, further in pictures.items() if field != "image"}
            result = await task.run(picture, options, self.engine, context, **further)
            clock.lap("task")
            if result.table is not None:
                return self._finish(request, result, b"", media_types.TABLE, (), clock)
            output = replace(request.output, format=codec.choose_format(result.picture, request.output.format, accept))
            body, media_type, lost = await run_in_thread(_encode, result.picture, output)
            clock.lap("encode")
            return self._finish(request, result, body, media_type, lost, clock)

    def _finish(
        self,
        request: ImageRequest,
        result: TaskResult,
        body: bytes,
        media_type: str,
        lost: tuple[str, ...],
        clock: _StageClock,
    ) -> Encoded:
        return Encoded(
            body=body,
            media_type=media_type,
            filename=request.uploads["image"].filename,
            width=result.picture.width,
            height=result.picture.height,
            model=result.model,
            decisions=result.decisions,
            warnings=(*result.picture.warnings, *lost),
            seconds=self._observe(request.task.name, result, clock),
            table=result.table,
        )

    def _observe(self, task: str, result: TaskResult, clock: _StageClock) -> dict[str, float]:
        """Return the seconds by stage, and count them."""
        seconds = {
            "decode": clock.seconds["decode"],
            **result.seconds,
            "queue": clock.seconds["queue"] + result.seconds.get("queue", 0.0),
            "encode": clock.seconds.get("encode", 0.0),
        }
        for stage, taken in seconds.items():
            self._observer.observe_stage(task, stage, taken)
        return seconds


class _StageClock:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self._then = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage; the same one may come again."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._then
        self._then = now


def _fingerprint(uploads: Mapping[str, Upload]) -> Hashable:
    return tuple(sorted((field, upload.fingerprint()) for field, upload in uploads.items()))


def _measure(upload: Upload, max_pixels: int, field: str) -> int:
    """Return how many pixels the picture has."""
    with _naming(field):
        width, height = codec.measure(upload.read(), max_pixels=max_pixels)
    return width * height


def _decode(upload: Upload, max_pixels: int, field: str) -> Picture:
    with _naming(field):
        return codec.decode(upload.read(), max_pixels=max_pixels)


def _encode(picture: Picture, output: Output) -> tuple[bytes, str, tuple[str, ...]]:
    return *codec.encode(picture, output), codec.list_losses(picture, output)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Let an error of the codec name the field that the picture came in."""
    try:
        yield
    except ServiceError as error:
        error.field = error.field and field
        raise


def _enlarge_outline(picture: Picture, scale: int) -> Picture:
    """Return a picture of one pixel repeated, without its memory: as large as the result will be."""
    height, width = picture.height * scale, picture.width * scale
    alpha = None if picture.alpha is None else np.broadcast_to(picture.alpha[:1, :1], (height, width))
    return picture.with_pixels(np.broadcast_to(picture.pixels[:1, :1], (height, width, picture.channels)), alpha)


async def run_in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` on a thread. When cancelled, wait for it all the same: it cannot be stopped and holds memory."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise
