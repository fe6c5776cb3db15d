"""`GET /models` and the card of each model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api import openapi, responses
from app.api.problems import NotFound
from app.engine.protocol import ModelServer, ModelStatus
from models.manifest import Manifest


def router(engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["models"])

    def short(entry: ModelStatus, default: bool) -> dict[str, Any]:
        return _short(entry, default, engine.device, engine.as_run(entry.manifest) if entry.manifest else None)

    @routes.get(
        "/models",
        summary="What the shelf holds",
        response_class=JSONResponse,
        responses=openapi.answers({"description": "Every version of every model."}, openapi.PAGE_PROBLEMS),
    )
    async def models(request: Request) -> Response:
        defaults = {manifest.id for manifest in engine.defaults()}
        listed = [short(entry, entry.id in defaults) for entry in engine.statuses()]
        return responses.revalidated(request.headers, JSONResponse({"models": listed}))

    @routes.get(
        "/models/{task}/{name}",
        summary="The card of a model: data, metrics, licence",
        description="`name` is a model's name, for the version that it means now, or `name@version`.",
        response_class=JSONResponse,
        responses=openapi.answers(
            {"description": "The model's manifest and its state."}, (*openapi.PAGE_PROBLEMS, "not-found")
        ),
    )
    async def card(request: Request, task: str, name: str) -> Response:
        asked = f"{task}/{name}"
        chosen = next((e for e in engine.statuses() if asked == e.id or (e.latest and asked == _name(e))), None)
        if chosen is None:
            raise NotFound("There is no such model. GET /models lists what there is.")
        versions = [_version(entry) for entry in engine.statuses() if _name(entry) == _name(chosen)]
        defaults = {manifest.id for manifest in engine.defaults()}
        content = short(chosen, chosen.id in defaults)
        if chosen.manifest:
            content |= {"manifest": chosen.manifest.model_dump(mode="json")}
        return responses.revalidated(request.headers, JSONResponse(content | {"versions": versions}))

    return routes


def _short(entry: ModelStatus, default: bool, device: str, manifest: Manifest | None) -> dict[str, Any]:
    """Return what is told of a model in a list; `manifest` is as the model is run here."""
    told: dict[str, Any] = {
        "id": entry.id,
        "task": entry.id.partition("/")[0],
        "name": _name(entry).partition("/")[2],
        "version": _version(entry),
        "default": default,
        "latest": entry.latest,
        "state": entry.state,
        "card": f"/models/{_name(entry)}",
    }
    if manifest is not None:
        told |= {
            "title": manifest.title,
            "description": manifest.description,
            "architecture": manifest.architecture,
            "parameters": manifest.parameters,
            "flops_per_pixel": manifest.flops_per_pixel,
            "licence": manifest.licence,
            "created": manifest.created.isoformat(),
            "precision": sorted({signature.precision for signature in manifest.signatures.values()}),
            "scales": sorted({signature.scale for signature in manifest.signatures.values()}),
            "device": device if entry.state == "loaded" else None,
            "mebibytes_per_megapixel": manifest.serving.mebibytes_per_megapixel,
            "quality": [table.model_dump(mode="json") for table in manifest.quality],
        }
    return told


def _name(entry: ModelStatus) -> str:
    return entry.id.partition("@")[0]


def _version(entry: ModelStatus) -> int:
    return int(entry.id.partition("@")[2])
