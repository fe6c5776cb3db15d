"""Builds the service from its parts."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from app.api import exception_handlers, openapi, schemas
from app.api.auth import Authenticator
from app.api.facades import FACADES
from app.api.facades.base import FacadeErrorMiddleware
from app.api.handler import ImageHandler
from app.api.job_dispatch import JobDispatcher
from app.api.job_runner import JobRunner, explain
from app.api.jobs import JobService
from app.api.lifecycle import Shutdown
from app.api.metrics import Metrics
from app.api.middleware import ACCEPTED_HEADERS, EXPOSED_HEADERS, AccessLogMiddleware, AuthMiddleware, HeadMiddleware
from app.api.readiness import ReadinessProbe
from app.api.routes import health, home, images, jobs, model_cards, pages, styles
from app.api.server import LAST_S
from app.engine.protocol import ModelServer
from app.imaging.decoder_pool import DecoderPool
from app.jobs.store import JobStore
from app.jobs.worker import Worker
from app.limits.concurrency import ConcurrencyLimit
from app.limits.pixel_budget import PixelBudget
from app.limits.rate import RateLimiter
from app.pipeline import ImagePipeline
from app.settings import Settings
from app.startup import keep_models_current, make_decoders, save_latencies, start_engine
from app.tasks import TASKS
from app.tasks.base import Task

VERSION = "0.1.0"

LATENCY_FILE = "latency.json"
"""The file in `RESTORE_DATA_DIR` with the measured latencies of models."""


def create_app(
    settings: Settings,
    *,
    engine: ModelServer | None = None,
    tasks: Sequence[Task[Any]] = TASKS,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Return the service, with an endpoint for each of `tasks`.

    Without `engine`, starts the one in `settings`, which takes seconds. `clock` returns seconds since 1970, for the
    times of jobs. Raises ClusterError.
    """
    engine = engine or start_engine(settings)
    metrics, shutdown, readiness = Metrics(), Shutdown(), ReadinessProbe(engine, tasks)
    authenticator = Authenticator([key.get_secret_value() for key in settings.api_keys], settings.trusted_proxies)
    decoders = make_decoders(settings)
    pipeline = ImagePipeline(
        engine,
        metrics,
        budget=PixelBudget(settings.decoded_megapixels),
        max_pixels=settings.max_pixels,
        max_output_pixels=settings.max_output_pixels,
        decoders=decoders,
    )
    store = JobStore(
        settings.data_dir,
        max_jobs=settings.jobs_max,
        max_bytes=settings.jobs_disk_mb * 2**20,
        ttl=settings.job_ttl_h * 3600,
        clock=clock,
    )
    runner = JobRunner(pipeline, tasks, PixelBudget(settings.decoded_megapixels), clock)
    worker = Worker(store, runner, explain, concurrency=settings.jobs_at_once)
    job_service = JobService(
        store, worker, shutdown, needs_key=authenticator.needs_key, body_timeout_s=settings.body_timeout_s
    )
    dispatcher = JobDispatcher(job_service, pipeline, store, worker, shutdown, longest=settings.request_timeout_s)
    concurrency = ConcurrencyLimit(settings.max_requests, pipeline.budget.seconds_ahead)
    handler = ImageHandler(settings, pipeline, dispatcher, concurrency, shutdown)

    app = FastAPI(
        title="restore",
        version=VERSION,
        lifespan=_lifespan(settings, engine, decoders, worker, shutdown, readiness),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )

    @functools.cache
    def document() -> bytes:
        return json.dumps(openapi.build(app, needs_key=authenticator.needs_key)).encode()

    app.state.decoders = decoders
    app.state.pipeline, app.state.shutdown, app.state.concurrency = pipeline, shutdown, concurrency
    app.state.settings, app.state.store, app.state.worker, app.state.jobs = settings, store, worker, job_service
    app.state.metrics = metrics
    for router in (
        images.router(tasks, handler),
        styles.router(engine),
        jobs.router(job_service),
        model_cards.router(engine),
        health.router(readiness, shutdown, metrics),
        pages.router(document),
        home.router(_index(settings, authenticator)),
    ):
        app.include_router(router)
    for name in settings.facades:
        app.include_router(FACADES[name].router(tasks, handler, engine))
    exception_handlers.install(app)
    _add_middleware(app, settings, authenticator, metrics)
    metrics.watch_pipeline(pipeline)
    metrics.watch_decoders(decoders)
    metrics.watch_engine(engine)
    metrics.watch_jobs(worker)
    metrics.watch_queue_age(
        {
            "requests": lambda: pipeline.budget.oldest_seconds,
            "decoders": lambda: 0.0 if decoders is None else decoders.queue.oldest_seconds,
            "tiles": lambda: max((one.oldest_seconds for one in engine.devices.values()), default=0.0),
            "jobs": lambda: worker.oldest_queued_seconds,
        }
    )
    return app


def _index(settings: Settings, authenticator: Authenticator) -> dict[str, Any]:
    """Return what `GET /` says of the service, without its links."""
    limits = {name: getattr(settings, name) for name in schemas.Limits.model_fields}
    return {"name": "restore", "version": VERSION, "needs_key": authenticator.needs_key, "limits": limits}


def _lifespan(
    settings: Settings,
    engine: ModelServer,
    decoders: DecoderPool | None,
    worker: Worker,
    shutdown: Shutdown,
    readiness: ReadinessProbe,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan: background tasks that start before the first request and end after the last."""

    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        if decoders is not None:
            decoders.start()  # while models are loaded
        await worker.start()
        latencies = settings.data_dir / LATENCY_FILE
        await asyncio.to_thread(engine.latency.load, latencies)
        background = [
            asyncio.create_task(keep_models_current(engine, settings, readiness)),
            asyncio.create_task(save_latencies(engine.latency, latencies)),
        ]
        yield
        shutdown.begin()
        await worker.stop()
        for running in background:
            running.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await engine.close(LAST_S)
        await shutdown.drain()
        if decoders is not None:
            await decoders.close()
        await asyncio.to_thread(engine.latency.save, latencies)

    return run


def _add_middleware(app: FastAPI, settings: Settings, authenticator: Authenticator, metrics: Metrics) -> None:
    """Add the middleware; the last one added handles a request first."""
    app.add_middleware(HeadMiddleware)
    rate = RateLimiter(*settings.rate) if settings.rate else None
    app.add_middleware(AuthMiddleware, authenticator=authenticator, rate=rate)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=ACCEPTED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(AccessLogMiddleware, metrics=metrics)
    if settings.facades:
        app.add_middleware(FacadeErrorMiddleware, facades=[FACADES[name] for name in settings.facades])


def _operation_id(route: APIRoute) -> str:
    return route.name


if __name__ == "__main__":
    raise SystemExit("restore: start the service with `python -m app`")
