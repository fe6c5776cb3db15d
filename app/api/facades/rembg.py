"""The interface of rembg's server (`rembg s`), `/api/remove`: cut-outs.

https://github.com/danielgatis/rembg
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import Headers, UploadFile

from app.api.facades.base import (
    Facade,
    Problem,
    alpha_as_mask,
    choose_cutout_model,
    find_task,
    make_image_request,
    picture_response,
)
from app.api.forms import FormItems, read_multipart, suggest_field, to_upload
from app.api.handler import ImageHandler
from app.engine.protocol import ModelServer
from app.errors import InvalidField, MissingField, UnknownField
from app.pipeline import ImageRequest
from app.tasks.base import Task

PEOPLE = ("u2net_human_seg", "u2net_cloth_seg", "birefnet-portrait")
"""Models of rembg that cut out people. All other names of its own mean the most general model here."""
IGNORED = ("a", "af", "ab", "ae", "ppm", "dc", "vm", "extras")
"""How rembg refines edges, which the service does in any case."""


def router(tasks: Sequence[Task[Any]], handler: ImageHandler, engine: ModelServer) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(include_in_schema=False)
    task = find_task(tasks, "segment")

    @routes.post("/api/remove")
    async def remove_background(request: Request) -> Response:
        color = request.query_params.get("bgc", "")
        return await handler.translate(request, partial(_read, task=task, engine=engine, color=color), picture_response)

    return routes


@asynccontextmanager
async def _read(
    headers: Headers, body: AsyncGenerator[bytes, None], *, task: Task[Any], engine: ModelServer, color: str
) -> AsyncIterator[ImageRequest]:
    """Yield the form as a request. Raises MalformedRequest, BadRequest and errors from reading `body`."""
    async with read_multipart(headers, body) as items:
        texts, file = _separate(items)
        model = texts.get("model", "")
        options = {
            "output": "cutout",
            "format": "png",
            "background": _parse_color(texts.get("bgc", color)),
            "model": choose_cutout_model(engine, "person" if model in PEOPLE else model),
        }
        only_mask = texts.get("om", "").lower() in ("1", "true", "on", "yes")
        finish = alpha_as_mask if only_mask else None
        if only_mask:
            options["background"] = "transparent"
        yield make_image_request(task, options, {"image": to_upload(file)}, finish=finish)


def _separate(items: FormItems) -> tuple[dict[str, str], UploadFile]:
    """Return the texts and the picture of a form. Raises UnknownField, InvalidField, MissingField."""
    known = ("file", "model", "om", "bgc", *IGNORED)
    texts: dict[str, str] = {}
    file = None
    for name, item in items:
        if name not in known:
            hint = " Did you mean `file`?" if suggest_field(name, ["image"]) else ""
            raise UnknownField(f"Unknown field `{name[:60]}`.{hint}", field=name[:60])
        if (name == "file") != isinstance(item, UploadFile):
            raise InvalidField(f"`{name}` must be {'a file' if name == 'file' else 'a text'}.", field=name)
        if isinstance(item, UploadFile):
            file = item
        else:
            texts[name] = item
    if file is None or not file.size:
        raise MissingField("The file field `file` is missing, or its file is empty.", field="file")
    return texts, file


def _parse_color(text: str) -> str:
    """Return `r,g,b` or `r,g,b,a` as the option `background`. Raises InvalidField."""
    if not text.strip():
        return "transparent"
    parts = [int(part) if re.fullmatch(r"\s*\d{1,3}\s*", part) else 256 for part in text.split(",")]
    if len(parts) not in (3, 4) or max(parts) > 255 or (len(parts) == 4 and parts[3] not in (0, 255)):
        wanted = "a color as red,green,blue,alpha from 0 to 255, with an alpha of 0 or 255"
        raise InvalidField(f"`bgc` must be {wanted}, not {text[:60]!r}.", field="bgc")
    red, green, blue, alpha = [*parts, 255][:4]
    return f"#{red:02x}{green:02x}{blue:02x}" if alpha else "transparent"


def describe(problem: Problem) -> Any:
    """Return a problem as FastAPI describes errors, which rembg's server is built with."""
    return {"detail": problem["detail"]}


FACADE = Facade("/api/remove", router, describe)
