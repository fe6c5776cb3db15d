"""The one place that puts the service together. `python -m app.main` serves it."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match

from app import settings as configuration
from app.api import openapi, problems
from app.api.access import Access
from app.api.desk import Desk
from app.api.golden import Golden
from app.api.jobs import Jobs
from app.api.limits import RateLimiter
from app.api.metrics import Metrics
from app.api.middleware import Gate, Head, Record
from app.api.routes import denoise, health, inpaint, models, pages, segment, styles, stylize, superres
from app.api.routes import jobs as job_routes
from app.api.runner import Runner, explain
from app.api.server import LAST_S, Server, ignore_signals
from app.engine.latency_model import LatencyModel
from app.engine.local import LocalEngine
from app.engine.protocol import DeviceStats, ModelServer, RequestContext
from app.engine.ray import Cluster, ClusterError, RayEngine
from app.engine.registry import Registry
from app.errors import InvalidField, ServiceError
from app.imaging.picture import Picture
from app.jobs.store import JobStore, JobStoreError
from app.jobs.worker import Worker
from app.settings import Settings, SettingsError
from app.tasks.answer import Answer
from app.tasks.denoise import DenoiseWish
from app.tasks.denoise import denoise as run_denoise
from app.tasks.inpaint import InpaintWish
from app.tasks.inpaint import inpaint as run_inpaint
from app.tasks.segment import SegmentWish
from app.tasks.segment import segment as run_segment
from app.tasks.stylize import StylizeWish
from app.tasks.stylize import stylize as run_stylize
from app.tasks.superres import SuperresWish
from app.tasks.superres import superres as run_superres
from models.manifest import Manifest

VERSION = "0.1.0"

LATENCY_FILE = "costs.json"
"""The file in `RESTORE_DATA_DIR` of what calls of the device take."""
LATENCY_SAVE_S = 300.0

log = structlog.get_logger("restore.main")

EXPOSED = [
    "X-Model",
    "X-Applied",
    "X-Request-Id",
    "Server-Timing",
    "Link",
    "Content-Disposition",
    "Retry-After",
    "Location",
    "Preference-Applied",
    "ETag",
]
ACCEPTED = [
    "Authorization",
    "X-API-Key",
    "X-Request-Id",
    "Cancel-After",
    "Prefer",
    "Idempotency-Key",
    "If-None-Match",
]


def create_app(
    settings: Settings, *, engine: ModelServer | None = None, clock: Callable[[], float] = time.time
) -> FastAPI:
    """Return the service. Without `engine`, one is made of the models in `settings.models_dir`.

    `clock` is the time of day by which jobs live.
    """
    engine = engine or _start_engine(settings)
    metrics = Metrics()
    access = Access([key.get_secret_value() for key in settings.api_keys], settings.trusted_proxies)
    desk = Desk(settings, engine, metrics)
    store = _store(settings, clock)
    worker = Worker(store, Runner(desk, clock), explain, concurrency=settings.jobs_at_once)
    jobs = Jobs(desk, store, worker, closed=access.closed)
    desk.defer = jobs.take
    golden = Golden(engine, _golden_tasks(engine))
    rate = RateLimiter(*settings.rate) if settings.rate else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await worker.start()
        measured = settings.data_dir / LATENCY_FILE
        await asyncio.to_thread(engine.latency.load, measured)
        beside = [
            asyncio.create_task(_keep_warm(engine, settings, golden)),
            asyncio.create_task(_keep(engine.latency, measured)),
        ]
        yield
        desk.closing = True
        await worker.stop()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await engine.close(LAST_S)
        await desk.drain()
        await asyncio.to_thread(engine.latency.save, measured)

    app = FastAPI(
        title="restore",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )

    @functools.cache
    def document() -> bytes:
        return json.dumps(openapi.build(app, closed=access.closed)).encode()

    app.state.desk = desk
    app.state.store, app.state.worker, app.state.jobs = store, worker, jobs
    app.include_router(denoise.router(desk))
    app.include_router(superres.router(desk))
    app.include_router(segment.router(desk))
    app.include_router(inpaint.router(desk))
    app.include_router(stylize.router(desk))
    app.include_router(styles.router(engine))
    app.include_router(job_routes.router(jobs))
    app.include_router(models.router(engine))
    app.include_router(health.router(desk, golden))
    app.include_router(pages.router(document))
    for kind in (ServiceError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_problem)
    # The last added is the first to see a request.
    app.add_middleware(Head)
    app.add_middleware(Gate, access=access, rate=rate)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=ACCEPTED,
            expose_headers=EXPOSED,
        )
    app.add_middleware(Record, metrics=metrics)
    _watch(metrics, desk, engine)
    _watch_jobs(metrics, worker)
    return app


def _store(settings: Settings, clock: Callable[[], float]) -> JobStore:
    return JobStore(
        settings.data_dir,
        max_jobs=settings.jobs_max,
        max_bytes=settings.jobs_disk_mb * 2**20,
        ttl=settings.job_ttl_h * 3600,
        clock=clock,
    )


def _start_engine(settings: Settings) -> ModelServer:
    return _join_cluster(settings) if settings.engine == "ray" else _start_tensorflow(settings)


def _start_tensorflow(settings: Settings) -> LocalEngine:
    """Return the engine of this machine. Takes seconds: TensorFlow is imported here."""
    with _step("starting TensorFlow"):
        from app.engine.tensorflow_runtime import Runtime

        runtime = Runtime()
    folders = ", ".join(str(folder) for folder in settings.models_dir)
    with _step(f"checking the models in {folders}"):
        registry = Registry(settings.models_dir, runtime, budget=settings.models_mb * 2**20)
    return LocalEngine(
        registry,
        max_batch=settings.max_batch,
        max_megapixels=settings.queue_megapixels,
        max_concurrent_batches=runtime.max_concurrent_batches,
        accelerated=runtime.device != "CPU",
        device=runtime.device,
        latency=LatencyModel(f"{runtime.device}, {platform.machine()}, {os.cpu_count()} cores"),
    )


def _join_cluster(settings: Settings) -> RayEngine:
    """Return the engine of a Ray cluster. Takes up to a minute where no replica works yet. Raises ClusterError."""
    cluster = Cluster(settings.ray_address, settings.ray_replicas, settings.ray_cpus, settings.ray_gpus)
    with _step("starting replicas on Ray"):
        return RayEngine(
            settings.models_dir,
            cluster,
            preload=settings.preload,
            max_batch=settings.max_batch,
            max_megapixels=settings.queue_megapixels,
            budget=settings.models_mb * 2**20,
        )


async def _keep(latency: LatencyModel, path: Path) -> None:
    """Save what was measured now and then, for a start after an end that nobody asked for."""
    while True:
        await asyncio.sleep(LATENCY_SAVE_S)
        await asyncio.to_thread(latency.save, path)


async def _answer_problem(request: Request, error: Exception) -> Response:
    """Return any refusal as a problem document, Starlette's and FastAPI's own included."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        if "Allow" in headers:
            headers["Allow"] = ", ".join(_methods(request))
        error = _own(error.status_code, request)
    elif not isinstance(error, ServiceError):
        error = InvalidField("A value in the address or its query is not allowed.")
    request.state.problem = problems.of(error).slug
    response = problems.response(error, request.state.request_id)
    response.headers.update(headers)
    return response


def _methods(request: Request) -> list[str]:
    """Return every method that the address takes: a route tells its own alone."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)

    methods = [method for method in ("DELETE", "GET", "POST") if takes(method)]
    return [*methods, "HEAD"] if "GET" in methods else methods


def _own(status: int, request: Request) -> ServiceError:
    if status == 404:
        return problems.NotFound("There is nothing at this address. /docs lists what there is.")
    if status == 405:
        return problems.MethodNotAllowed(f"This address does not take {request.method[:20]}.")
    return problems.MalformedRequest("The request cannot be read.")


def _golden_tasks(engine: ModelServer) -> dict[str, Callable[[Manifest, Picture, RequestContext], Any]]:
    async def through_denoise(model: Manifest, picture: Picture, context: RequestContext) -> Answer:
        return await run_denoise(picture, DenoiseWish(model=f"{model.name}@{model.version}"), engine, context)

    async def through_superres(model: Manifest, picture: Picture, context: RequestContext) -> Answer:
        scale = min(signature.scale for signature in model.signatures.values())
        wish = SuperresWish(model=f"{model.name}@{model.version}", scale=scale, max_output_pixels=10**6)
        return await run_superres(picture, wish, engine, context)

    async def through_segment(model: Manifest, picture: Picture, context: RequestContext) -> Answer:
        return await run_segment(picture, SegmentWish(model=f"{model.name}@{model.version}"), engine, context)

    async def through_inpaint(model: Manifest, picture: Picture, context: RequestContext) -> Answer:
        hole = np.zeros((picture.height, picture.width, 1), np.uint8)
        hole[picture.height // 3 : picture.height // 2, picture.width // 3 : picture.width // 2] = 255
        method: Literal["dcgan", "neural"] = "dcgan" if "search" in model.signatures else "neural"
        wish = InpaintWish(Picture(hole), method=method, model=f"{model.name}@{model.version}")
        return await run_inpaint(picture, wish, engine, context)

    async def through_stylize(model: Manifest, picture: Picture, context: RequestContext) -> Answer:
        wish = StylizeWish(style_image=picture, model=f"{model.name}@{model.version}")
        return await run_stylize(picture, wish, engine, context)

    return {
        "denoise": through_denoise,
        "superres": through_superres,
        "segment": through_segment,
        "inpaint": through_inpaint,
        "stylize": through_stylize,
    }


async def _keep_warm(engine: ModelServer, settings: Settings, golden: Golden) -> None:
    """Warm what is to be loaded at start, then follow the shelves."""
    try:
        await _warm(engine, settings.preload, golden)
    except Exception:  # a bug: what is served goes on, and so does what follows
        log.exception("not all is warm")
        golden.warming = False
    while settings.reload_s:
        await asyncio.sleep(settings.reload_s)
        try:
            await engine.refresh()
        except Exception:  # a disk that is away for a while, or a bug: what is served goes on
            log.exception("the shelves cannot be followed")


async def _warm(engine: ModelServer, wanted: tuple[str, ...], golden: Golden) -> None:
    """Load and warm what `wanted` names, with a line on standard output for each step. A failure ends no other."""
    started = time.perf_counter()
    chosen: dict[str, Manifest] = {}
    for entry in wanted:
        if entry == "defaults":
            chosen |= {manifest.id: manifest for manifest in engine.defaults()}
            continue
        task, _, name = entry.partition("/")
        try:
            manifest = engine.find(task, name or None)
            chosen[manifest.id] = manifest
        except ServiceError as error:
            _say(f"cannot preload {entry}: {error.detail}")
    for manifest in chosen.values():
        begun = time.perf_counter()
        try:
            await engine.warm(manifest, keep=True)
        except ServiceError as error:
            _say(f"loading {manifest.id} … failed: {error.detail}")
        except Exception:
            log.exception("warm-up failed", model=manifest.id)
            _say(f"loading {manifest.id} … failed")
        else:
            _say(f"loading {manifest.id} … {time.perf_counter() - begun:.1f} s")
    golden.warming = False
    verdicts = await golden.check()
    for task, verdict in verdicts.items():
        _say(f"{task}: {'ready' if verdict.ready else verdict.reason}")
    if not verdicts:
        _say("there are no models; train one, or set RESTORE_MODELS_DIR")
    _say(f"warm after {time.perf_counter() - started:.1f} s")


def _say(text: str, end: str = "\n") -> None:
    with suppress(OSError, ValueError, AttributeError):  # a full disk, a pipe that nobody reads, closed, none at all
        sys.stdout.write(text + end)
        sys.stdout.flush()


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Tell of a step that takes a while, and then how long it took."""
    _say(f"{what} … ", end="")
    begun = time.perf_counter()
    yield
    _say(f"{time.perf_counter() - begun:.1f} s")


def _watch(metrics: Metrics, desk: Desk, engine: ModelServer) -> None:
    metrics.watch("restore_decoded_megapixels", "Megapixels held decoded.", lambda: desk.budget.used)
    metrics.watch("restore_requests_waiting", "Requests that wait to be decoded.", lambda: desk.budget.waiting)

    def watch(name: str, meaning: str, read: Callable[[DeviceStats], float]) -> None:
        each = {device: functools.partial(read, load) for device, load in engine.devices.items()}
        metrics.watch_each(name, meaning, "device", each)

    watch("restore_queue_tiles", "Tiles that wait for a device.", lambda one: one.depth)
    watch("restore_queue_megapixels", "Megapixels that wait for a device.", lambda one: one.megapixels)
    watch("restore_device_busy_seconds", "Seconds that a device worked.", lambda one: one.counters.busy_seconds)
    watch("restore_device_tiles", "Tiles that a device did.", lambda one: one.counters.requests)
    watch("restore_device_batches", "Batches that a device did.", lambda one: one.counters.batches)
    watch("restore_device_failures", "Tiles that failed.", lambda one: one.counters.failures)
    metrics.watch("restore_device_retries", "Tiles sent to another replica.", lambda: engine.counters.retries)
    metrics.watch("restore_devices", "Devices, or replicas, that work.", lambda: engine.worker_count)
    metrics.watch_sizes(
        "restore_batch_size", "Tiles that went to a device at once.", lambda: engine.counters.batch_sizes
    )
    metrics.watch_kinds("restore_rejections", "Tiles refused, by reason.", "reason", lambda: engine.counters.rejections)
    metrics.watch("restore_work_seconds", "Seconds of a device that requests need.", lambda: desk.admission.seconds)
    metrics.watch(
        "restore_models_unavailable",
        "Models on the shelf that cannot be served.",
        lambda: sum(entry.state == "unavailable" for entry in engine.statuses()),
    )


def _watch_jobs(metrics: Metrics, worker: Worker) -> None:
    def kept(state: str) -> Callable[[], float]:
        return lambda: worker.counts.get(state, 0)

    def ended(state: str) -> Callable[[], float]:
        return lambda: worker.finished_counts[state]

    for state, meaning in (("queued", "wait"), ("running", "run")):
        metrics.watch(f"restore_jobs_{state}", f"Jobs that {meaning}.", kept(state))
    for state in ("succeeded", "failed", "cancelled"):
        metrics.watch(f"restore_jobs_{state}", f"Jobs that ended so since the start: {state}.", ended(state))


def _start_logging(form: str) -> None:
    """Send every log line, uvicorn's too, to standard error: one line each, to read or as JSON."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    if form == "text":
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    else:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    begun = time.perf_counter()
    try:
        settings = configuration.read()
    except SettingsError as error:
        sys.stderr.write(f"restore: {error}\n")
        return 2
    for sentence in configuration.misspelt():
        sys.stderr.write(f"restore: {sentence}\n")
    _start_logging(settings.log_format)
    try:
        app = create_app(settings)
    except ClusterError as error:
        sys.stderr.write(f"restore: {configuration.variable('engine')}=ray: {error}\n")
        return 2
    try:
        app.state.store.open()
    except JobStoreError as error:
        sys.stderr.write(f"restore: {configuration.variable('data_dir')}: {error}\n")
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=15,
    )

    def listening() -> None:
        where = f"http://{settings.host}:{settings.port}"
        _say(f"serving on {where} after {time.perf_counter() - begun:.1f} s, docs at /docs")

    ignore_signals()
    server = Server(config, app.state.desk, settings.stop_timeout_s, listening)
    server.run()
    _say("stopped")
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
