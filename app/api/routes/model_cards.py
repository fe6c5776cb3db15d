"""The model endpoints: `GET /models` and the card of each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from app.api import openapi, responses, schemas
from app.api.problems import NotFound
from app.engine.precision import functions_of
from app.engine.protocol import ModelServer, ModelStatus

TaskName = Annotated[str, Path(description="Task of the model.", examples=["denoise"])]
ModelName = Annotated[str, Path(description="`name` or `name@version` of the model.", examples=["photo"])]


def router(engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["models"])

    def summarize(status: ModelStatus, default: bool) -> dict[str, Any]:
        precisions = engine.precisions(status.manifest) if status.manifest else {}
        return _summarize(status, default, engine.device, precisions)

    @routes.get(
        "/models",
        summary="List all models",
        response_model=schemas.ModelList,
        responses=openapi.answers({"description": "All versions of all models."}, openapi.PAGE_PROBLEMS),
    )
    async def list_models(request: Request) -> Response:
        defaults = {manifest.id for manifest in engine.defaults()}
        listed = [summarize(status, status.id in defaults) for status in engine.statuses()]
        return responses.revalidate(request.headers, JSONResponse({"models": listed}))

    @routes.get(
        "/models/{task}/{name}",
        summary="Get a model card: training data, quality, license",
        description="`name` is the name of a model, for its current version, or `name@version`.",
        response_model=schemas.ModelCard,
        responses=openapi.answers(
            {"description": "The model card, with the manifest of the model."}, (*openapi.PAGE_PROBLEMS, "not-found")
        ),
    )
    async def get_model_card(request: Request, task: TaskName, name: ModelName) -> Response:
        asked = f"{task}/{name}"
        chosen = next(
            (one for one in engine.statuses() if asked == one.id or (one.latest and asked == _name(one))), None
        )
        if chosen is None:
            raise NotFound(f"There is no model {asked[:120]!r}. `GET /models` lists all models.")
        versions = [_version(status) for status in engine.statuses() if _name(status) == _name(chosen)]
        defaults = {manifest.id for manifest in engine.defaults()}
        content = summarize(chosen, chosen.id in defaults)
        if chosen.manifest:
            content |= {"manifest": chosen.manifest.model_dump(mode="json")}
        return responses.revalidate(request.headers, JSONResponse(content | {"versions": versions}))

    return routes


def _summarize(status: ModelStatus, default: bool, device: str, precisions: Mapping[str, str]) -> dict[str, Any]:
    """Return a model as `GET /models` lists it; `precisions` are those that its signatures are computed in here."""
    manifest = status.manifest
    summary: dict[str, Any] = {
        "id": status.id,
        "task": status.id.partition("/")[0],
        "name": _name(status).partition("/")[2],
        "version": _version(status),
        "default": default,
        "latest": status.latest,
        "state": status.state,
        "card": f"/models/{_name(status)}",
    }
    if manifest is not None:
        summary |= {
            "title": manifest.title,
            "description": manifest.description,
            "architecture": manifest.architecture,
            "parameters": manifest.parameters,
            "flops_per_pixel": manifest.flops_per_pixel,
            "licence": manifest.licence,
            "created": manifest.created.isoformat(),
            "precision": sorted(set(precisions.values())),
            "precisions": sorted({one for name in manifest.signatures for one in functions_of(manifest, name)}),
            "scales": sorted(manifest.scales),
            "device": device if status.state == "loaded" else None,
            "mebibytes_per_megapixel": manifest.serving.mebibytes_per_megapixel,
            "quality": [table.model_dump(mode="json") for table in manifest.quality],
        }
    return summary


def _name(status: ModelStatus) -> str:
    return status.id.partition("@")[0]


def _version(status: ModelStatus) -> int:
    return int(status.id.partition("@")[2])
