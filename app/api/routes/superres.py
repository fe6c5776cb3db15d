"""`POST /superres`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk
from app.api.forms import SuperresForm
from app.engine.protocol import Caller
from app.imaging.picture import Picture
from app.tasks import superres as task
from app.tasks.answer import Answer


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    async def work(form: SuperresForm, pictures: dict[str, Picture], caller: Caller) -> Answer:
        wish = task.SuperresWish(
            model=form.model_name, scale=form.scale, max_output_pixels=desk.settings.max_output_pixels
        )
        return await task.superres(pictures["image"], wish, desk.engine, caller)

    @routes.post(
        "/superres",
        summary="Make a picture 2, 3 or 4 times as wide and high",
        response_class=Response,
        responses=openapi.picture_answers((*openapi.PICTURE_PROBLEMS, "result-too-large")),
        openapi_extra={"requestBody": openapi.form_body(SuperresForm), "parameters": [openapi.CANCEL_AFTER]},
    )
    async def superres(request: Request) -> Response:
        return await desk.serve(request, "superres", SuperresForm, work, lambda form: form.scale)

    return routes
