"""`POST /superres`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk, Endpoint, Sizes
from app.api.forms import SuperresForm
from app.engine.protocol import RequestContext
from app.imaging.picture import Picture
from app.tasks import superres as task
from app.tasks.answer import Answer


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    def wish(form: SuperresForm) -> task.SuperresWish:
        most = desk.settings.max_output_pixels
        return task.SuperresWish(model=form.model_name, scale=form.scale, max_output_pixels=most)

    async def work(form: SuperresForm, pictures: dict[str, Picture], caller: RequestContext) -> Answer:
        return await task.superres(pictures["image"], wish(form), desk.engine, caller)

    def check(form: SuperresForm, sizes: Sizes) -> None:
        task.check(sizes["image"], wish(form), desk.engine)

    endpoint = desk.open(
        Endpoint(task="superres", kind=SuperresForm, work=work, enlarged=lambda form: form.scale, check=check)
    )

    @routes.post(
        "/superres",
        summary="Make a picture 2, 3 or 4 times as wide and high",
        response_class=Response,
        responses=openapi.picture_answers((*openapi.PICTURE_PROBLEMS, "result-too-large")),
        openapi_extra={"requestBody": openapi.form_body(SuperresForm), "parameters": openapi.REQUEST_HEADERS},
    )
    async def superres(request: Request) -> Response:
        return await desk.serve(request, endpoint)

    return routes
