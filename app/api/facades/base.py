"""What all facades share: a table row each, requests for the pipeline, and errors in the form of their clients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.api.forms import form_class, parse_form
from app.api.handler import ImageHandler
from app.api.responses import StreamedResponse, result_headers
from app.engine.protocol import ModelServer
from app.errors import UnknownModel
from app.imaging.picture import Picture
from app.pipeline import Encoded, ImageRequest, Upload
from app.tasks.base import Task

Problem = Mapping[str, Any]
"""A problem document, as `app.api.problems` describes it."""
CUTOUT_MODELS = ("object", "person")
"""The models of `segment` that cut out a subject, the most general one first."""


@dataclass(frozen=True, slots=True)
class Facade:
    """An interface of another service: its endpoints, all below `prefix`, and its errors.

    `router` returns the endpoints; `describe` turns a problem document into the content of an error.
    """

    prefix: str
    router: Callable[[Sequence[Task[Any]], ImageHandler, ModelServer], APIRouter]
    describe: Callable[[Problem], Any]


def find_task(tasks: Sequence[Task[Any]], name: str) -> Task[Any]:
    """Return the task with this name."""
    return next(task for task in tasks if task.name == name)


def make_image_request(
    task: Task[Any],
    texts: Mapping[str, str],
    uploads: Mapping[str, Upload],
    *,
    prepare: Callable[[dict[str, Picture]], dict[str, Picture]] | None = None,
    finish: Callable[[Picture], Picture] | None = None,
) -> ImageRequest:
    """Return a request with the options `texts`, which have the names of the form of `task`. Raises InvalidField."""
    form = parse_form(form_class(task), texts)
    return ImageRequest(task, form, form.encoding, uploads, None, prepare, finish)


def choose_cutout_model(engine: ModelServer, wanted: str = "") -> str:
    """Return the name of the model of `segment` for a cut-out: `wanted` if there is such a model, else the most general
    one that cuts out a subject; empty for the default model of the task."""
    for name in (wanted, *CUTOUT_MODELS):
        try:
            if name:
                engine.find("segment", name)
                return name
        except UnknownModel:
            continue
    return ""


def alpha_as_mask(picture: Picture) -> Picture:
    """Return the alpha of a picture as a gray picture of its own."""
    gray = picture.pixels[..., :1] if picture.alpha is None else picture.alpha[..., None]
    return picture.with_pixels(gray, None)


async def picture_response(encoded: Encoded, request: ImageRequest) -> StreamedResponse:  # noqa: ARG001
    """Return the response with the picture alone."""
    return StreamedResponse(encoded.body, 200, result_headers(encoded), encoded.media_type)


def describe_as_webui(problem: Problem) -> Any:
    """Return a problem as the server of AUTOMATIC1111's web interface does, and IOPaint's after it."""
    return {"error": problem["title"], "detail": problem["detail"], "body": "", "errors": problem["detail"]}


class FacadeErrorMiddleware:
    """Writes problem documents for the paths of facades in the form that their clients show.

    It stands before all others, so that no error of theirs (a missing key, the rate limit, a bug) is left out. The
    status and the other headers stay.
    """

    def __init__(self, app: ASGIApp, facades: Sequence[Facade]) -> None:
        self.app = app
        self.facades = facades

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        for facade in self.facades:
            if re.match(facade.prefix, path):
                send = _describe_errors(send, facade)
                break
        await self.app(scope, receive, send)


def _describe_errors(send: Send, facade: Facade) -> Send:
    started: Message | None = None

    async def sending(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            if MutableHeaders(scope=message).get("content-type", "") == problems.MEDIA_TYPE:
                started = message  # the content decides about its length
                return
        elif started is not None and message["type"] == "http.response.body":
            body = json.dumps(facade.describe(json.loads(message["body"]))).encode() if message["body"] else b""
            headers = MutableHeaders(scope=started)
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(body))
            await send(started)
            started, message = None, {**message, "body": body}
        await send(message)

    return sending
