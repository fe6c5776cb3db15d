"""Processes a picture from uploaded files to encoded bytes: measure, admit, decode, run the task, encode.

Used by requests and jobs. Independent of HTTP, except for the value of `Accept`.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ParamSpec, Protocol, TypeVar

import numpy as np

from app import media_types
from app.engine.protocol import ModelServer, RequestContext
from app.errors import ResultTooLarge, ServiceError, WorkTooLarge
from app.imaging import codec
from app.imaging.codec import Output
from app.imaging.picture import Picture
from app.limits.admission import Admission
from app.limits.pixel_budget import PixelBudget
from app.tasks.base import Size, Sizes, Task, TaskOptions, TaskResult
from app.tasks.tiling import count_computed, count_covered
from models.manifest import Manifest

MAX_WORK_RATIO = 2
"""A picture may take so many times the work of a square one with the most pixels: a thin one takes whole tiles."""
_FINGERPRINT_BYTES = 64 * 1024

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file; a large one stays on disk until it is read."""

    file: BinaryIO
    size: int
    filename: str

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the file if it is on disk, None if it is in memory."""
        if getattr(self.file, "_rolled", True) is False:  # a SpooledTemporaryFile: asked for it, it would go to disk
            return None
        try:
            self.file.flush()
            return self.file.fileno()
        except OSError:
            return None

    def read(self) -> bytes:
        """Return the bytes of the file. May read from disk: call it on a thread."""
        self.file.seek(0)
        return self.file.read()

    def fingerprint(self) -> tuple[int, int]:
        """Return the size of the file and a checksum of its end, which differs for different pictures in compressed
        formats. May read from disk: call it on a thread."""
        self.file.seek(max(0, self.size - _FINGERPRINT_BYTES))
        return self.size, zlib.crc32(self.file.read())


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A task to run on the pictures in `uploads`, by form field. `output` is how to encode the result; if its format is
    `auto`, `accept` (the value of the header) decides.

    `prepare` converts the decoded pictures, by field, to what the task expects, and `finish` its result: for clients of
    other services. Both run on a thread.
    """

    task: Task[Any]
    options: TaskOptions
    output: Output
    uploads: Mapping[str, Upload]
    accept: str | None
    prepare: Callable[[dict[str, Picture]], dict[str, Picture]] | None = None
    finish: Callable[[Picture], Picture] | None = None

    @property
    def wants_json(self) -> bool:
        """Whether the client prefers JSON with the picture in base64."""
        return media_types.prefers_json(self.accept)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The result of an ImageRequest: the bytes of a picture, or a `table`, and facts about it.

    `model` is the id of the model, or empty if none was used; `decisions` and `losses` are for `X-Applied`; `warnings`
    are sentences; `seconds` is the duration of each stage; `width` and
    `height` are those of the picture, in pixels.
    """

    body: bytes
    media_type: str
    filename: str
    width: int
    height: int
    model: str
    decisions: dict[str, str]
    losses: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    table: dict[str, Any] | None = None


class Observer(Protocol):
    """Records metrics of a pipeline."""

    def count_pixels(self, task: str, pixels: int) -> None:
        """Count the pixels of a decoded picture."""

    def observe_stage(self, task: str, stage: str, seconds: float) -> None:
        """Record the duration of a stage of a request."""


class Decoders(Protocol):
    """Measures and decodes uploads: in this process, or in a `DecoderPool`."""

    async def measure(self, source: Upload, *, max_pixels: int, client: str) -> tuple[int, int]:
        """Return `codec.measure` of a file, and raise what it raises."""

    async def decode(self, source: Upload, *, max_pixels: int, client: str, pixels: int) -> Picture:
        """Return `codec.decode` of a file of so many `pixels`, and raise what it raises."""


class InProcessDecoders:
    """Measures and decodes in this process, on its threads: a file that crashes a library ends the service."""

    async def measure(self, source: Upload, *, max_pixels: int, client: str) -> tuple[int, int]:  # noqa: ARG002
        """Return `codec.measure` of a file, and raise what it raises."""
        return await run_in_thread(_measure, source, max_pixels)

    async def decode(self, source: Upload, *, max_pixels: int, client: str, pixels: int) -> Picture:  # noqa: ARG002
        """Return `codec.decode` of a file, and raise what it raises."""
        return await run_in_thread(_decode, source, max_pixels)


class ImagePipeline:
    """Runs requests with the models of `engine`, within limits on pixels and device time.

    `max_pixels` is the limit for each input picture, `max_output_pixels` for the result. `budget` limits the memory for
    decoded pictures of requests. `decoders` measure and decode; by default, this process does.
    """

    def __init__(
        self,
        engine: ModelServer,
        observer: Observer,
        *,
        budget: PixelBudget,
        max_pixels: int,
        max_output_pixels: int,
        decoders: Decoders | None = None,
    ) -> None:
        self.engine = engine
        self.budget = budget
        self.admission = Admission(engine.latency, devices=lambda: engine.worker_count)
        self._observer = observer
        self._max_pixels = max_pixels
        self._max_output_pixels = max_output_pixels
        self._decoders = decoders or InProcessDecoders()

    async def run(self, request: ImageRequest, context: RequestContext, budget: PixelBudget | None = None) -> Encoded:
        """Return the result of `request`, within `budget` (by default, that of requests). Raises ServiceError."""
        clock = _StageClock()
        sizes = await self.measure(request, context.client)
        clock.lap("decode")
        budget = budget or self.budget
        if not request.options.uses_device:  # it neither waits for the device nor uses it
            return await self._process(request, sizes, context, budget, clock)
        kind = f"{self.find_model(request) or request.task.name} ×{request.options.scale_factor}"
        kind = f"{kind} {request.options.work_kind}".rstrip()
        fingerprint = await run_in_thread(_fingerprint, request.uploads)
        manifest = self._find_manifest(request)
        size = request.options.model_size(sizes["image"])
        work = self._count_computed(size, manifest) if manifest else size.pixels
        with self.admission.enter(kind, work, context, fingerprint) as due:
            return await self._process(request, sizes, replace(context, due=due), budget, clock)

    def find_model(self, request: ImageRequest) -> str:
        """Return the id of the model for the request, or an empty string if it needs none. Raises UnknownModel,
        ModelUnavailable."""
        manifest = self._find_manifest(request)
        return manifest.id if manifest else ""

    def _find_manifest(self, request: ImageRequest) -> Manifest | None:
        options = request.options
        return self.engine.find(request.task.name, options.model_name) if options.needs_model else None

    async def measure(self, request: ImageRequest, client: str) -> Sizes:
        """Return the size of each picture. Raises all errors that can be found without decoding."""
        # The bytes of a file are not kept: large files stay on disk until they are decoded.
        sizes = {}
        for field, upload in request.uploads.items():
            with _naming(field):
                size = await self._decoders.measure(upload, max_pixels=self._max_pixels, client=client)
            sizes[field] = Size(*size)
        request.task.check(request.options, sizes, self.engine)
        self._check_result_size(sizes["image"].pixels, request.options.scale_factor)
        manifest = self._find_manifest(request)
        if manifest and manifest.geometry.kind == "tiled":
            self._check_work(request.options.model_size(sizes["image"]), manifest)
        return sizes

    def _count_computed(self, size: Size, manifest: Manifest) -> int:
        return count_computed(size, manifest, self.engine.tile_mebibytes)

    def _check_work(self, size: Size, manifest: Manifest) -> None:
        """Raise WorkTooLarge if the tiles of a thin picture are too many."""
        side = math.isqrt(self._max_pixels)
        work = self._count_computed(size, manifest)
        limit = MAX_WORK_RATIO * self._count_computed(Size(side, side), manifest)
        if work > limit:
            raise WorkTooLarge(
                f"The picture of {size.width}×{size.height} pixels is so thin that its tiles have {work} pixels; the "
                f"limit is {limit}. Split it, and put the parts together into a less thin one.",
                field="image",
                value=work,
                limit=limit,
            )

    def _check_result_size(self, pixels: int, scale: int) -> None:
        result = pixels * scale**2
        if scale > 1 and result > self._max_output_pixels:
            raise ResultTooLarge(
                f"{pixels} pixels enlarged {scale} times in width and height would be {result} pixels; the limit is "
                f"{self._max_output_pixels}. Use a smaller `scale` or picture.",
                field="scale",
                value=result,
                limit=self._max_output_pixels,
            )

    async def _process(
        self, request: ImageRequest, sizes: Sizes, context: RequestContext, budget: PixelBudget, clock: _StageClock
    ) -> Encoded:
        task, options, scale = request.task, request.options, request.options.scale_factor
        accept = None if request.wants_json else request.accept
        manifest = self._find_manifest(request)
        largest = max(sizes["image"], options.model_size(sizes["image"]), key=lambda size: size.pixels)
        covered = count_covered(largest, manifest.geometry) if manifest else largest.pixels
        others = sum(size.pixels for field, size in sizes.items() if field != "image")
        async with budget.hold((others + covered * (1 + scale**2)) / 1e6, context.client):
            clock.lap("queue")
            pictures = {}
            for field, upload in request.uploads.items():
                with _naming(field):
                    pictures[field] = await self._decoders.decode(
                        upload, max_pixels=self._max_pixels, client=context.client, pixels=sizes[field].pixels
                    )
            if request.prepare:
                pictures = await run_in_thread(request.prepare, pictures)
            picture = pictures["image"]
            self._observer.count_pixels(task.name, picture.width * picture.height)
            if not options.returns_table:  # reject a format that cannot store the result before the task runs
                outline = _enlarge_outline(task.outline(options, pictures), scale)
                codec.choose_format(outline, request.output.format, accept)
            clock.lap("decode")
            further = {field: further for field, further in pictures.items() if field != "image"}
            exact = replace(context, exact=picture.pixels.dtype == np.uint16)  # in bfloat16 its levels would be lost
            result = await task.run(picture, options, self.engine, exact, **further)
            clock.lap("task")
            if result.table is not None:
                return self._finish(request, result, b"", media_types.TABLE, (), clock)
            if request.finish:
                result = replace(result, picture=await run_in_thread(request.finish, result.picture))
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
            losses=(*result.picture.warnings, *lost),
            warnings=result.warnings,
            seconds=self._observe(request.task.name, result, clock),
            table=result.table,
        )

    def _observe(self, task: str, result: TaskResult, clock: _StageClock) -> dict[str, float]:
        """Return the duration of each stage, and record them as metrics."""
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
    """Measures the duration of stages, in seconds."""

    def __init__(self) -> None:
        self._then = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage. If it occurs several times, its durations are added."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._then
        self._then = now


def _fingerprint(uploads: Mapping[str, Upload]) -> Hashable:
    return tuple(sorted((field, upload.fingerprint()) for field, upload in uploads.items()))


def _measure(upload: Upload, max_pixels: int) -> tuple[int, int]:
    return codec.measure(upload.read(), max_pixels=max_pixels)


def _decode(upload: Upload, max_pixels: int) -> Picture:
    return codec.decode(upload.read(), max_pixels=max_pixels)


def _encode(picture: Picture, output: Output) -> tuple[bytes, str, tuple[str, ...]]:
    return *codec.encode(picture, output), codec.list_losses(picture, output)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Set the form field of the picture in errors of the codec."""
    try:
        yield
    except ServiceError as error:
        error.field = error.field and field
        raise


def _enlarge_outline(picture: Picture, scale: int) -> Picture:
    """Return a picture of the size of the result that repeats one pixel and needs no memory for it."""
    height, width = picture.height * scale, picture.width * scale
    alpha = None if picture.alpha is None else np.broadcast_to(picture.alpha[:1, :1], (height, width))
    return picture.with_pixels(np.broadcast_to(picture.pixels[:1, :1], (height, width, picture.channels)), alpha)


async def run_in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function` on a thread. When cancelled, still wait for it: it cannot be stopped, and it holds memory."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise
