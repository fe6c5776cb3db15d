"""`GET /livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from app.api import metrics, openapi
from app.api.desk import Desk
from app.api.golden import Golden

_UNCACHED = {"Cache-Control": "no-store"}


def router(desk: Desk, golden: Golden) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["service"])

    @routes.get(
        "/livez",
        summary="Whether the process answers",
        response_class=JSONResponse,
        responses=openapi.answers({"description": "It does."}, ("internal-error",)),
    )
    async def livez() -> JSONResponse:
        return JSONResponse({"status": "alive"}, headers=_UNCACHED)

    @routes.get(
        "/readyz",
        summary="Whether every task's default model works",
        description="Yes when each task's default model is loaded and a small picture just went the whole way through "
        "it. A verdict holds for a few seconds.",
        response_class=JSONResponse,
        responses=openapi.answers(
            {"description": "Every task is ready."},
            ("internal-error",),
            {503: {"description": "Some task is not, or the service stops.", "content": {"application/json": {}}}},
        ),
    )
    async def readyz() -> JSONResponse:
        if desk.closing:
            return JSONResponse({"status": "stopping"}, 503, _UNCACHED)
        verdicts = await golden.check()
        ready = bool(verdicts) and all(verdict.ready for verdict in verdicts.values())
        tasks = {task: "ready" if verdict.ready else verdict.reason for task, verdict in verdicts.items()}
        return JSONResponse(
            {"status": "ready" if ready else "not ready", "tasks": tasks}, 200 if ready else 503, _UNCACHED
        )

    @routes.get(
        "/metrics",
        summary="Counters in Prometheus' text format",
        response_class=Response,
        responses=openapi.answers(
            {"description": "The counters.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            openapi.PAGE_PROBLEMS,
        ),
    )
    async def read_metrics() -> Response:
        return Response(desk.metrics.text(), 200, _UNCACHED, metrics.CONTENT_TYPE)

    return routes
