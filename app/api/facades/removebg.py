"""The interface of remove.bg, `/v1.0/removebg`: cut-outs.

https://www.remove.bg/api
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import Headers, UploadFile

from app import media_types
from app.api import responses
from app.api.facades.base import (
    Facade,
    Problem,
    alpha_as_mask,
    choose_cutout_model,
    find_task,
    make_image_request,
    picture_response,
)
from app.api.facades.base64_body import read_base64
from app.api.forms import read_multipart, to_upload
from app.api.handler import Build, ImageHandler
from app.api.responses import StreamedResponse
from app.engine.protocol import ModelServer
from app.errors import InvalidField, MissingField, UnknownField
from app.pipeline import Encoded, ImageRequest, Upload
from app.tasks.base import Task

UNSUPPORTED = ("image_url", "bg_image_url", "crop", "roi", "scale", "position", "add_shadow")
"""Fields that would change the result, and that nothing here does. The service fetches no URLs."""
IGNORED = (
    "size", "type_level", "crop_margin", "semitransparency", "shadow_type", "shadow_opacity", "bg_blur",
)  # fmt: skip
OWN = ("type", "format", "bg_color", "channels")
FILES = ("image_file", "bg_image_file")
FORMATS = {"auto": "png", "png": "png", "jpg": "jpeg", "webp": "webp"}


def router(tasks: Sequence[Task[Any]], handler: ImageHandler, engine: ModelServer) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(include_in_schema=False)
    task = find_task(tasks, "segment")

    @routes.post("/v1.0/removebg")
    async def remove_bg(request: Request) -> Response:
        wants_json = media_types.prefers_json(request.headers.get("accept"))
        read, build = partial(_read, task=task, engine=engine), _build_json if wants_json else picture_response
        return await handler.translate(request, read, partial(_build, build=build))

    return routes


@asynccontextmanager
async def _read(
    headers: Headers, body: AsyncGenerator[bytes, None], *, task: Task[Any], engine: ModelServer
) -> AsyncIterator[ImageRequest]:
    """Yield a form or a JSON object as a request. Raises MalformedRequest, BadRequest and errors from reading."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with read_multipart(headers, body) as items:
            texts = {name: item for name, item in items if isinstance(item, str)}
            files = {name: to_upload(item) for name, item in items if isinstance(item, UploadFile) and item.size}
            yield _make_request(texts, files, task, engine)
    else:
        async with read_base64(headers, body, ("image_file_b64",)) as content:
            texts = {name: _to_text(value) for name, value in content.members.items()}
            files = {"image_file": content.pictures["image_file_b64"]}
            yield _make_request(texts, files, task, engine)


def _to_text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _make_request(
    texts: dict[str, str], files: Mapping[str, Upload], task: Task[Any], engine: ModelServer
) -> ImageRequest:
    """Return the request. Raises UnknownField, InvalidField, MissingField."""
    for name in (*texts, *files):
        if name not in (*OWN, *UNSUPPORTED, *IGNORED, *FILES):
            raise UnknownField(f"Unknown field `{name[:60]}`.", field=name[:60])
        if name in UNSUPPORTED and texts.get(name, "").lower() not in ("", "false", "original", "0"):
            raise InvalidField(f"`{name}` is not supported by this service.", field=name)
    if "image_file" not in files:
        raise MissingField("Send the picture as `image_file` or `image_file_b64`.", field="image_file")
    kind = texts.get("format") or "auto"
    if kind not in FORMATS:
        raise InvalidField(f"`format` must be {', '.join(FORMATS)}, not {kind[:60]!r}.", field="format")
    only_mask = texts.get("channels") == "alpha"
    has_picture = "bg_image_file" in files and not only_mask
    plain = "#ffffff" if kind == "jpg" and not has_picture else "transparent"  # JPEG stores no transparency
    options = {
        "output": "cutout",
        "format": FORMATS[kind],
        "background": "transparent" if only_mask else _parse_color(texts.get("bg_color", "")) or plain,
        "model": choose_cutout_model(engine, "person" if texts.get("type") == "person" else ""),
    }
    if only_mask:
        options["format"] = "png"
    uploads = {"image": files["image_file"]}
    if has_picture:
        uploads["background_image"] = files["bg_image_file"]
    return make_image_request(task, options, uploads, finish=alpha_as_mask if only_mask else None)


def _parse_color(text: str) -> str:
    """Return `fff`, `81d4fa` or `81d4fa00` as the option `background`, empty if there is none. Raises InvalidField."""
    digits = text.strip().removeprefix("#")
    if not digits:
        return ""
    if re.fullmatch("[0-9a-fA-F]{3}", digits):
        digits = "".join(2 * digit for digit in digits)
    match = re.fullmatch("([0-9a-fA-F]{6})(00|[fF]{2})?", digits)
    if not match:
        text = f"`bg_color` must be a color as rrggbb, not {text[:60]!r}; half transparent ones are not supported."
        raise InvalidField(text, field="bg_color")
    return "transparent" if match[2] == "00" else f"#{match[1]}"


async def _build(encoded: Encoded, request: ImageRequest, build: Build) -> StreamedResponse:
    response = await build(encoded, request)
    kind = "person" if encoded.model.startswith("segment/person@") else "other"
    headers = {"X-Type": kind, "X-Width": str(encoded.width), "X-Height": str(encoded.height), "X-Credits-Charged": "0"}
    response.headers.update(headers)
    return response


async def _build_json(encoded: Encoded, request: ImageRequest) -> StreamedResponse:  # noqa: ARG001
    body = await asyncio.to_thread(responses.embed_base64, {"data": {"result_b64": ""}}, encoded.body)
    return StreamedResponse(body, 200, responses.result_headers(encoded), "application/json")


def describe(problem: Problem) -> Any:
    """Return a problem as the interface describes errors."""
    slug = problem["type"].rpartition("/")[2]
    return {"errors": [{"title": problem["title"], "detail": problem["detail"], "code": slug.replace("-", "_")}]}


FACADE = Facade("/v1.0/", router, describe)
