"""`POST /denoise`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk, Endpoint, Sizes
from app.api.forms import DenoiseForm
from app.engine.protocol import RequestContext
from app.imaging.picture import Picture
from app.tasks import denoise as task
from app.tasks.answer import Answer


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    async def work(form: DenoiseForm, pictures: dict[str, Picture], caller: RequestContext) -> Answer:
        return await task.denoise(pictures["image"], _wish(form), desk.engine, caller)

    def check(form: DenoiseForm, _: Sizes) -> None:
        task.check(_wish(form), desk.engine)

    endpoint = desk.open(Endpoint(task="denoise", kind=DenoiseForm, work=work, check=check))

    @routes.post(
        "/denoise",
        summary="Take noise, grain and JPEG artefacts out of a photograph",
        response_class=Response,
        responses=openapi.picture_answers(),
        openapi_extra={"requestBody": openapi.form_body(DenoiseForm), "parameters": openapi.REQUEST_HEADERS},
    )
    async def denoise(request: Request) -> Response:
        return await desk.serve(request, endpoint)

    return routes


def _wish(form: DenoiseForm) -> task.DenoiseWish:
    strength = None if form.strength == "auto" else form.strength
    return task.DenoiseWish(model=form.model_name, strength=strength, preserve=form.preserve)
