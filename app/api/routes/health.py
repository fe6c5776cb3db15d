"""Health checks and metrics: `GET /livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from app.api import metrics as exposition
from app.api import openapi, schemas
from app.api.lifecycle import Shutdown
from app.api.metrics import Metrics
from app.api.readiness import ReadinessProbe

_UNCACHED = {"Cache-Control": "no-store"}


def router(readiness: ReadinessProbe, shutdown: Shutdown, metrics: Metrics) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["service"])

    @routes.get(
        "/livez",
        summary="Check that the process responds",
        response_model=schemas.Liveness,
        responses=openapi.answers({"description": "The process responds."}, ("internal-error",)),
    )
    async def livez() -> JSONResponse:
        return JSONResponse({"status": "alive"}, headers=_UNCACHED)

    @routes.get(
        "/readyz",
        summary="Check that the service can process pictures",
        description="Runs a small test picture through the default model of each task. The result is cached for a few "
        "seconds.",
        response_model=schemas.Readiness,
        responses=openapi.answers(
            {"description": "All tasks are ready."},
            ("internal-error",),
            {503: {"description": "A task is not ready, or the service is shutting down.", "model": schemas.Readiness}},
        ),
    )
    async def readyz() -> JSONResponse:
        if shutdown.closing:
            return JSONResponse({"status": "stopping"}, 503, _UNCACHED)
        results = await readiness.check()
        ready = bool(results) and all(result.ready for result in results.values())
        tasks = {task: "ready" if result.ready else result.reason for task, result in results.items()}
        return JSONResponse(
            {"status": "ready" if ready else "not ready", "tasks": tasks}, 200 if ready else 503, _UNCACHED
        )

    @routes.get(
        "/metrics",
        name="metrics",
        summary="Get metrics in the Prometheus text format",
        response_class=Response,
        responses=openapi.answers(
            {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            openapi.PAGE_PROBLEMS,
        ),
    )
    async def read_metrics() -> Response:
        return Response(metrics.text(), 200, _UNCACHED, exposition.CONTENT_TYPE)

    return routes
