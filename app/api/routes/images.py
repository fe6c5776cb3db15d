"""The picture endpoints: `POST /denoise` and one for each other task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.handler import ImageHandler
from app.tasks.base import Task


def router(tasks: Sequence[Task[Any]], handler: ImageHandler) -> APIRouter:
    """Return an endpoint for each of `tasks`, served by `handler`."""
    routes = APIRouter(tags=["pictures"])
    for task in tasks:
        routes.add_api_route(
            f"/{task.name}",
            _endpoint(task, handler),
            methods=["POST"],
            name=task.name,
            summary=task.summary,
            description=task.description,
            response_class=Response,
            responses=openapi.picture_answers(task),
            openapi_extra={"requestBody": openapi.form_body(task), "parameters": openapi.REQUEST_HEADERS},
        )
    return routes


def _endpoint(task: Task[Any], handler: ImageHandler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler.handle(request, task)

    return endpoint
