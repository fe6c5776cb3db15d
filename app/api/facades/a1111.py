"""Enlarging as in AUTOMATIC1111's web interface: `/sdapi/v1/extra-single-image` and `/sdapi/v1/upscalers`.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers

from app.api import responses
from app.api.facades.base import Facade, describe_as_webui, find_task, make_image_request
from app.api.facades.base64_body import read_base64
from app.api.handler import ImageHandler
from app.api.responses import StreamedResponse
from app.engine.protocol import ModelServer, ModelStatus
from app.errors import InvalidField
from app.pipeline import Encoded, ImageRequest
from app.tasks.base import Task


def router(tasks: Sequence[Task[Any]], handler: ImageHandler, engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(include_in_schema=False)
    task = find_task(tasks, "superres")

    @routes.post("/sdapi/v1/extra-single-image")
    async def a1111_extra_single_image(request: Request) -> Response:
        return await handler.translate(request, partial(_read, task=task, engine=engine), _build)

    @routes.get("/sdapi/v1/upscalers")
    async def a1111_upscalers() -> Response:
        return JSONResponse([_describe_upscaler(status) for status in _upscalers(engine)])

    return routes


@asynccontextmanager
async def _read(
    headers: Headers, body: AsyncGenerator[bytes, None], *, task: Task[Any], engine: ModelServer
) -> AsyncIterator[ImageRequest]:
    """Yield an enlargement. Raises MalformedRequest, BadRequest and errors from reading `body`."""
    async with read_base64(headers, body, ("image",)) as content:
        if content.members.get("resize_mode", 0) != 0:
            raise InvalidField("`resize_mode` must be 0: enlarge by `upscaling_resize`.", field="resize_mode")
        scale, wanted = content.members.get("upscaling_resize", 2), content.members.get("upscaler_1")
        names = [_name(status) for status in _upscalers(engine)]
        options = {
            "format": "png",
            "scale": f"{scale:g}" if isinstance(scale, int | float) else str(scale),
            # Other names are those of models that are not here, such as R-ESRGAN 4x+: they mean the default.
            "model": wanted.partition("/")[2] if isinstance(wanted, str) and wanted in names else "",
        }
        yield make_image_request(task, options, content.pictures)


async def _build(encoded: Encoded, request: ImageRequest) -> StreamedResponse:  # noqa: ARG001
    content = {"image": "", "html_info": ""}
    body = await asyncio.to_thread(responses.embed_base64, content, encoded.body)
    return StreamedResponse(body, 200, responses.result_headers(encoded), "application/json")


def _upscalers(engine: ModelServer) -> list[ModelStatus]:
    return [one for one in engine.statuses() if one.latest and one.manifest and one.manifest.task == "superres"]


def _name(status: ModelStatus) -> str:
    return status.id.partition("@")[0]


def _describe_upscaler(status: ModelStatus) -> dict[str, Any]:
    assert status.manifest
    scale = max(status.manifest.scales)
    return {
        "name": _name(status),
        "model_name": status.manifest.title,
        "model_path": None,
        "model_url": None,
        "scale": scale,
    }


FACADE = Facade("/sdapi/v1/", router, describe_as_webui)
