"""`POST /inpaint`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api import openapi
from app.api.desk import Desk, Endpoint, Sizes
from app.api.forms import InpaintForm
from app.engine.protocol import RequestContext
from app.errors import ConflictingFields, MissingField
from app.imaging.picture import Picture
from app.tasks import inpaint as task
from app.tasks.answer import Answer

PROBLEMS = ("conflicting-fields", "mask-size", "mask-empty", "mask-full", "work-too-large")


def router(desk: Desk) -> APIRouter:
    """Return the endpoint."""
    routes = APIRouter(tags=["pictures"])

    async def work(form: InpaintForm, pictures: dict[str, Picture], caller: RequestContext) -> Answer:
        wish = task.InpaintWish(
            mask=pictures.get("mask"),
            method=form.method,
            model=form.model_name,
            radius=form.radius,
            dilate=form.dilate,
            feather=form.feather,
        )
        return await task.inpaint(pictures["image"], wish, desk.engine, caller)

    endpoint = desk.open(Endpoint(task="inpaint", kind=InpaintForm, work=work, outline=_outline, check=_check))

    @routes.post(
        "/inpaint",
        summary="Fill what a mask marks as missing: scratches, stamps, objects",
        response_class=Response,
        responses=openapi.picture_answers((*openapi.PICTURE_PROBLEMS, *PROBLEMS)),
        openapi_extra={"requestBody": openapi.form_body(InpaintForm), "parameters": openapi.REQUEST_HEADERS},
    )
    async def inpaint(request: Request) -> Response:
        return await desk.serve(request, endpoint)

    return routes


def _check(form: InpaintForm, sizes: Sizes) -> None:
    """Raise MissingField or ConflictingFields for fields that do not go together."""
    if form.mask_from == "file" and "mask" not in sizes:
        text = "The file field mask is missing: white is what to fill. Or set mask_from=alpha."
        raise MissingField(text, field="mask")
    if form.mask_from == "alpha" and "mask" in sizes:
        raise ConflictingFields("mask and mask_from=alpha exclude each other: send one of them.", field="mask_from")
    # The default is no wish: Swagger UI and many a page send every field.
    if form.method in ("neural", "dcgan", "biharmonic") and form.radius != InpaintForm.model_fields["radius"].default:
        raise ConflictingFields(f"method={form.method} knows no radius.", field="radius", value=form.radius)
    if form.model.strip() and form.method not in ("auto", "neural", "dcgan"):
        text = f"method={form.method} works without a model: leave the field out."
        raise ConflictingFields(text, field="model", value=form.model)


def _outline(form: InpaintForm, pictures: dict[str, Picture]) -> Picture:
    """Return a picture of the kind that is answered: what was seen through is filled."""
    picture = pictures["image"]
    return picture.with_pixels(picture.pixels, None) if form.mask_from == "alpha" else picture
