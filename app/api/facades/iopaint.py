"""The interface that IOPaint's web front end uses, `/api/v1/…`: erase, remove the background, enlarge.

https://github.com/Sanster/IOPaint
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers

from app.api.facades.base import (
    Facade,
    choose_cutout_model,
    describe_as_webui,
    find_task,
    make_image_request,
    picture_response,
)
from app.api.facades.base64_body import read_base64
from app.api.handler import ImageHandler
from app.api.responses import StreamedResponse
from app.engine.protocol import ModelServer
from app.errors import InvalidField, MissingField
from app.pipeline import Encoded, ImageRequest
from app.tasks.base import Task

PLUGINS = {"RemoveBG": "segment", "RealESRGAN": "superres"}
"""The plugins that the front end knows and that have a task here."""


def router(tasks: Sequence[Task[Any]], handler: ImageHandler, engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(include_in_schema=False)
    known = {name: find_task(tasks, name) for name in ("inpaint", *PLUGINS.values())}

    @routes.post("/api/v1/inpaint")
    async def iopaint_inpaint(request: Request) -> Response:
        return await handler.translate(request, partial(_read_inpaint, task=known["inpaint"]), _build_inpaint)

    @routes.post("/api/v1/run_plugin_gen_image")
    async def iopaint_run_plugin(request: Request) -> Response:
        return await handler.translate(request, partial(_read_plugin, known=known, engine=engine), picture_response)

    @routes.get("/api/v1/server-config")
    async def iopaint_server_config() -> Response:
        return JSONResponse(_describe_server(engine))

    @routes.get("/api/v1/model")
    async def iopaint_model() -> Response:
        return JSONResponse(_describe_model(_default_model(engine, "inpaint")))

    @routes.get("/api/v1/inputimage")
    async def iopaint_input_image() -> Response:
        return Response(status_code=204)  # a picture that the server was started with: there is none

    @routes.post("/api/v1/gen-info")
    async def iopaint_gen_info(request: Request) -> Response:
        async for _ in handler.read_body(request):  # the front end sends a picture, and asks for the prompt in it
            pass
        return JSONResponse({"prompt": "", "negative_prompt": ""})

    return routes


@asynccontextmanager
async def _read_inpaint(
    headers: Headers, body: AsyncGenerator[bytes, None], *, task: Task[Any]
) -> AsyncIterator[ImageRequest]:
    """Yield the picture and the mask, white where to fill; all options are those of other models."""
    async with read_base64(headers, body, ("image", "mask")) as content:
        if "mask" not in content.pictures:
            raise MissingField("`mask` is missing, or empty.", field="mask")
        yield make_image_request(task, {"format": "png"}, content.pictures)


@asynccontextmanager
async def _read_plugin(
    headers: Headers, body: AsyncGenerator[bytes, None], *, known: dict[str, Task[Any]], engine: ModelServer
) -> AsyncIterator[ImageRequest]:
    """Yield a cut-out, or an enlargement. Raises InvalidField for other plugins."""
    async with read_base64(headers, body, ("image",)) as content:
        plugin, scale = content.members.get("name"), content.members.get("scale", 2)
        if not isinstance(plugin, str) or plugin not in PLUGINS:
            text = f"The plugin {str(plugin)[:60]!r} is not offered here; {' and '.join(PLUGINS)} are."
            raise InvalidField(text, field="name")
        if plugin == "RemoveBG":
            options = {"output": "cutout", "model": choose_cutout_model(engine)}
        else:
            options = {"scale": f"{scale:g}" if isinstance(scale, int | float) else str(scale)}
        yield make_image_request(known[PLUGINS[plugin]], {"format": "png", **options}, content.pictures)


async def _build_inpaint(encoded: Encoded, request: ImageRequest) -> StreamedResponse:
    response = await picture_response(encoded, request)
    response.headers["X-Seed"] = "0"  # nothing here is random
    return response


def _default_model(engine: ModelServer, task: str) -> str:
    """Return the name of the default model of a task, or the name of the task if it has none."""
    ids = [manifest.id for manifest in engine.defaults() if manifest.task == task]
    return ids[0].partition("@")[0] if ids else task


def _describe_server(engine: ModelServer) -> dict[str, Any]:
    segment = "segment/" + (choose_cutout_model(engine) or _default_model(engine, "segment").partition("/")[2])
    superres = _default_model(engine, "superres")
    return {
        "plugins": [{"name": name, "support_gen_image": True, "support_gen_mask": False} for name in PLUGINS],
        "modelInfos": [_describe_model(_default_model(engine, "inpaint"))],
        "removeBGModel": segment,
        "removeBGModels": [segment],
        "realesrganModel": superres,
        "realesrganModels": [superres],
        "interactiveSegModel": "",
        "interactiveSegModels": [],
        "enableFileManager": False,
        "enableAutoSaving": False,
        "enableControlnet": False,
        "controlnetMethod": None,
        "disableModelSwitch": True,
        "isDesktop": False,
        "samplers": [],
    }


def _describe_model(name: str) -> dict[str, Any]:
    """Return a model as the front end knows those that erase: without prompt and without options."""
    unsupported = ("strength", "outpainting", "lcm_lora", "controlnet", "brushnet", "powerpaint_v2")
    return {
        "name": name,
        "path": name,
        "model_type": "inpaint",
        "is_single_file_diffusers": False,
        "need_prompt": False,
        "controlnets": [],
        "brushnets": [],
        **{f"support_{name}": False for name in unsupported},
    }


FACADE = Facade("/api/v1/", router, describe_as_webui)
