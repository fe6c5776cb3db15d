"""`POST /stylize`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk, Endpoint, Sizes
from app.api.forms import StylizeForm
from app.engine.protocol import RequestContext
from app.errors import ConflictingFields
from app.imaging.picture import Picture
from app.tasks import stylize as task
from app.tasks.answer import Answer

PROBLEMS = ("conflicting-fields", "unknown-style", "work-too-large", "weights-missing")


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    async def work(form: StylizeForm, pictures: dict[str, Picture], caller: RequestContext) -> Answer:
        wish = _wish(form, pictures.get("style_image"))
        return await task.stylize(pictures["image"], wish, desk.engine, caller)

    def check(form: StylizeForm, sizes: Sizes) -> None:
        if form.method == "fast" and form.steps != StylizeForm.model_fields["steps"].default:
            raise ConflictingFields("method=fast knows no steps.", field="steps", value=form.steps)
        task.check(_wish(form), desk.engine, pictured="style_image" in sizes)

    endpoint = desk.open(Endpoint(task="stylize", kind=StylizeForm, work=work, check=check))

    @routes.post(
        "/stylize",
        summary="Paint it in the manner of another picture",
        response_class=Response,
        responses=openapi.picture_answers((*openapi.PICTURE_PROBLEMS, *PROBLEMS)),
        openapi_extra={"requestBody": openapi.form_body(StylizeForm), "parameters": openapi.REQUEST_HEADERS},
    )
    async def stylize(request: Request) -> Response:
        return await desk.serve(request, endpoint)

    return routes


def _wish(form: StylizeForm, style_image: Picture | None = None) -> task.StylizeWish:
    return task.StylizeWish(
        style=form.style.strip() or None,
        style_image=style_image,
        method=form.method,
        model=form.model_name,
        strength=form.strength,
        preserve_color=form.preserve_color,
        steps=form.steps,
    )
