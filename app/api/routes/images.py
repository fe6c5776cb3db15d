"""The picture endpoints: `POST /denoise` and one for each other task."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.handler import ImageHandler
from app.tasks.base import Task


def router(tasks: Sequence[Task[Any]], handler: ImageHandler) -> APIRouter:
    """Return an endpoint for each of `tasks` and its shortcuts, served by `handler`."""
    routes = APIRouter(tags=["pictures"])
    for task in itertools.chain.from_iterable((task, *task.shortcuts) for task in tasks):
        routes.add_api_route(
            f"/{task.path}",
            _endpoint(task, handler),
            methods=["POST"],
            name=task.path,
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
