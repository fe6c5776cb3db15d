"""`POST /denoise`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk
from app.api.forms import DenoiseForm
from app.engine.protocol import Caller
from app.imaging.picture import Picture
from app.tasks import denoise as task
from app.tasks.answer import Answer


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    async def work(form: DenoiseForm, pictures: dict[str, Picture], caller: Caller) -> Answer:
        strength = None if form.strength == "auto" else form.strength
        wish = task.DenoiseWish(model=form.model_name, strength=strength, preserve=form.preserve)
        return await task.denoise(pictures["image"], wish, desk.engine, caller)

    @routes.post(
        "/denoise",
        summary="Take noise, grain and JPEG artefacts out of a photograph",
        response_class=Response,
        responses=openapi.picture_answers(),
        openapi_extra={"requestBody": openapi.form_body(DenoiseForm), "parameters": [openapi.CANCEL_AFTER]},
    )
    async def denoise(request: Request) -> Response:
        return await desk.serve(request, "denoise", DenoiseForm, work)

    return routes
