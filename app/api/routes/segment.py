"""`POST /segment`."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk, Endpoint, Sizes
from app.api.forms import SegmentForm
from app.engine.protocol import RequestContext
from app.errors import ConflictingFields
from app.imaging.picture import Picture
from app.tasks import segment as task
from app.tasks.answer import Answer


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    async def work(form: SegmentForm, pictures: dict[str, Picture], caller: RequestContext) -> Answer:
        background = pictures.get("background_image") or _colour(form.background)
        wish = replace(_wish(form), background=background)
        return await task.segment(pictures["image"], wish, desk.engine, caller)

    def check(form: SegmentForm, sizes: Sizes) -> None:
        pictured = "background_image" in sizes
        if form.background != "transparent" and pictured:
            text = "background and background_image exclude each other: send one of them."
            raise ConflictingFields(text, field="background", value=form.background)
        task.check(_wish(form), desk.engine, behind=pictured or form.background != "transparent")

    endpoint = desk.open(Endpoint(task="segment", kind=SegmentForm, work=work, outline=_outline, check=check))

    @routes.post(
        "/segment",
        summary="Find what a photograph shows: a mask, a cut-out, an overlay or a table",
        response_class=Response,
        responses=openapi.picture_answers(
            (*openapi.PICTURE_PROBLEMS, "unknown-class", "conflicting-fields"), table="ClassTable"
        ),
        openapi_extra={"requestBody": openapi.form_body(SegmentForm), "parameters": openapi.REQUEST_HEADERS},
    )
    async def segment(request: Request) -> Response:
        return await desk.serve(request, endpoint)

    return routes


def _wish(form: SegmentForm) -> task.SegmentWish:
    return task.SegmentWish(
        model=form.model_name,
        output=form.output,
        threshold=form.threshold if "threshold" in form.model_fields_set else None,
        classes=tuple(name.strip() for name in form.classes.split(",") if name.strip()),
        opacity=form.opacity,
    )


def _colour(text: str) -> tuple[int, int, int] | None:
    return None if text == "transparent" else (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))


def _outline(form: SegmentForm, pictures: dict[str, Picture]) -> Picture:
    """Return a picture of the kind that is answered."""
    picture = pictures["image"]
    if form.output == "overlay":
        return picture
    behind = pictures.get("background_image")
    opaque = form.background != "transparent" if behind is None else behind.alpha is None
    return replace(picture, alpha=None if opaque or form.output != "cutout" else picture.pixels[..., 0])
