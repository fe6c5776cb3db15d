"""The images interface of OpenAI, `/v1/images/edits` and `/v1/models`, and `/v1/images/upscale` as in LocalAI.

https://platform.openai.com/docs/api-reference/images/createEdit
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, UploadFile

from app.api import responses
from app.api.facades.base import Facade, Problem, choose_cutout_model, make_image_request
from app.api.forms import FormItems, form_class, read_multipart, suggest_field, to_upload
from app.api.handler import ImageHandler
from app.api.problems import NotFound
from app.api.responses import StreamedResponse
from app.engine.protocol import ModelServer, ModelStatus
from app.errors import ConflictingFields, InvalidField, MissingField, UnknownField, UnknownModel
from app.imaging.picture import Picture
from app.pipeline import Encoded, ImageRequest
from app.tasks.base import Task

TASKS = ("inpaint", "denoise", "superres", "segment")
"""The tasks that need nothing but a picture and a mask."""
THEIR_MODELS = ("gpt-image", "dall-e", "chatgpt-image")
"""How the names of OpenAI's own models begin: they mean the default model of the endpoint's task."""
IGNORED = ("prompt", "size", "quality", "user", "moderation", "input_fidelity", "partial_images", "style")
"""Fields about generated pictures. A result here has the size that the task gives it."""
ONLY = {"n": ("1",), "stream": ("false",), "response_format": ("b64_json",)}
"""Fields of which only these values are supported."""
RENAMED = {"output_format": "format", "output_compression": "quality"}
OWN = ("model", "image", "mask", "background", *RENAMED, *ONLY, *IGNORED)


def router(tasks: Sequence[Task[Any]], handler: ImageHandler, engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(include_in_schema=False)
    known = {task.name: task for task in tasks if task.name in TASKS}

    @routes.post("/v1/images/edits")
    async def edit_image(request: Request) -> Response:
        return await handler.translate(request, partial(_read, known=known, default="inpaint", engine=engine), _build)

    @routes.post("/v1/images/upscale")
    async def upscale_image(request: Request) -> Response:
        return await handler.translate(request, partial(_read, known=known, default="superres", engine=engine), _build)

    @routes.get("/v1/models")
    async def list_openai_models() -> Response:
        return JSONResponse({"object": "list", "data": _list_models(engine)})

    @routes.get("/v1/models/{id:path}")
    async def get_openai_model(id: str) -> Response:
        for model in _list_models(engine):
            if model["id"] == id:
                return JSONResponse(model)
        raise NotFound(f"There is no model {id[:120]!r}. `GET /v1/models` lists them.")

    return routes


@asynccontextmanager
async def _read(
    headers: Headers,
    body: AsyncGenerator[bytes, None],
    *,
    known: dict[str, Task[Any]],
    default: str,
    engine: ModelServer,
) -> AsyncIterator[ImageRequest]:
    """Yield the form of an edit as a request. Raises MalformedRequest, BadRequest and errors from reading `body`."""
    async with read_multipart(headers, body) as items:
        given = next((value for name, value in items if name == "model" and isinstance(value, str)), "")
        task, model = _choose_task(given.strip(), known, default)
        texts, files = _separate(items, task)
        options = {"format": "png", **_translate(texts), "model": model}
        if task.name == "segment":
            background = "#ffffff" if texts.get("background") == "opaque" else "transparent"
            options |= {"output": "cutout", "model": model or choose_cutout_model(engine), "background": background}
        elif task.name == "inpaint" and "mask" not in files:
            options["mask_from"] = "alpha"
        uploads = {name: to_upload(file) for name, file in files.items()}
        yield make_image_request(task, options, uploads, prepare=_prepare)


def _choose_task(model: str, known: dict[str, Task[Any]], default: str) -> tuple[Task[Any], str]:
    """Return the task, and the name of its model, that the field `model` means. Raises UnknownModel."""
    if not model or model.startswith(THEIR_MODELS):
        return known[default], ""
    task, _, name = model.partition("/")
    if task not in known:
        raise UnknownModel(f"There is no model {model[:120]!r}. `GET /v1/models` lists them.", field="model")
    return known[task], name


def _separate(items: FormItems, task: Task[Any]) -> tuple[dict[str, str], dict[str, UploadFile]]:
    """Return the texts and the files of a form. Raises UnknownField, InvalidField, ConflictingFields, MissingField."""
    texts: dict[str, str] = {}
    files: dict[str, UploadFile] = {}
    known = {*OWN, *form_class(task).model_fields}
    for sent, item in items:
        name = sent.removesuffix("[]")
        if name not in known:
            raise UnknownField(f"Unknown field `{sent[:60]}`.{suggest_field(name, list(OWN))}", field=sent[:60])
        if (name in ("image", "mask")) != isinstance(item, UploadFile):
            kind = "a text, not a file" if isinstance(item, UploadFile) else "a file, sent with a file name, not a text"
            raise InvalidField(f"`{name}` must be {kind}.", field=name)
        if isinstance(item, UploadFile):
            files.setdefault(name, item)  # of several pictures, the first is edited
        else:
            texts[name] = item
    if "image" not in files or not files["image"].size:
        raise MissingField("The file field `image` is missing, or its file is empty.", field="image")
    if "mask" in files and "mask" not in task.pictures:
        raise ConflictingFields(f"A model of {task.name} takes no `mask`. Remove it.", field="mask")
    return texts, files


def _translate(texts: dict[str, str]) -> dict[str, str]:
    """Return the fields of a form as options of the task. Raises InvalidField."""
    for name, allowed in ONLY.items():
        if texts.get(name, allowed[0]).strip().lower() not in ("", *allowed):
            text = f"`{name}` must be {allowed[0]} here, not {texts[name][:60]!r}."
            raise InvalidField(text, field=name, value=texts[name])
    return {RENAMED.get(name, name): text for name, text in texts.items() if name in RENAMED or name not in OWN}


def _prepare(pictures: dict[str, Picture]) -> dict[str, Picture]:
    """Return the pictures with a mask that is white where to fill: where its alpha, or its gray, says so."""
    mask = pictures.get("mask")
    if mask is None:
        return pictures
    half = mask.maximum // 2
    hole = (mask.pixels > half).any(axis=-1) if mask.alpha is None else mask.alpha <= half
    filled = np.where(hole, np.uint8(255), np.uint8(0))[..., None]
    return {**pictures, "mask": Picture(filled)}


async def _build(encoded: Encoded, request: ImageRequest) -> StreamedResponse:
    content = {
        "created": int(time.time()),
        "data": [{"b64_json": ""}],
        "output_format": request.output.format,
        "size": f"{encoded.width}x{encoded.height}",
    }
    body = await asyncio.to_thread(responses.embed_base64, content, encoded.body)
    return StreamedResponse(body, 200, responses.result_headers(encoded), "application/json")


def _list_models(engine: ModelServer) -> list[dict[str, Any]]:
    """Return the models for edits, the default ones of each task first."""
    defaults = {manifest.id for manifest in engine.defaults()}
    usable = [one for one in engine.statuses() if one.latest and one.manifest and one.state != "unavailable"]
    usable = [one for one in usable if one.id.partition("/")[0] in TASKS]
    return [_describe_model(one) for one in sorted(usable, key=lambda one: one.id not in defaults)]


def _describe_model(status: ModelStatus) -> dict[str, Any]:
    assert status.manifest
    created = datetime.datetime.combine(status.manifest.created, datetime.time(), datetime.UTC)
    name = status.id.partition("@")[0]
    return {"id": name, "object": "model", "created": int(created.timestamp()), "owned_by": "restore"}


def describe(problem: Problem) -> Any:
    """Return a problem as the interface describes errors."""
    message, field = problem["detail"], problem.get("field")
    if field == "mask_from":  # what no field of this interface is named
        field = "mask"
        message = (
            "An edit needs to know where: send a `mask`, or a picture with transparent pixels, or set `model` to one "
            "of another task, such as denoise/photo (`GET /v1/models` lists them)."
        )
    kind = "invalid_request_error" if problem["status"] < 500 else "server_error"
    slug = problem["type"].rpartition("/")[2]
    return {"error": {"message": message, "type": kind, "param": field, "code": slug}}


FACADE = Facade("/v1/", router, describe)
