"""`GET /styles` and a small painting in each."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.api import openapi, responses, schemas
from app.api.problems import NotFound
from app.engine.protocol import ModelServer, ModelStatus


def router(engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["models"])

    def default() -> ModelStatus | None:
        """Return the model whose presets are listed, None where there is none."""
        chosen = [manifest.id for manifest in engine.defaults() if manifest.task == "stylize"]
        return next((entry for entry in engine.statuses() if entry.id in chosen), None)

    @routes.get(
        "/styles",
        summary="List the presets of /stylize",
        description="Those of the default model. `painting` is a photograph painted in the style.",
        response_model=schemas.StyleList,
        responses=openapi.answers({"description": "Every preset."}, openapi.PAGE_PROBLEMS),
    )
    async def list_styles(request: Request) -> Response:
        entry = default()
        listed: list[dict[str, Any]] = []
        if entry is not None and entry.manifest is not None:
            for style in entry.manifest.styles:
                painting = f"/styles/{style.name}.webp" if _painting(style.name) in entry.manifest.files else None
                listed.append({**style.model_dump(), "painting": painting})
        content = {"model": entry.id if entry else None, "styles": listed}
        return responses.revalidate(request.headers, JSONResponse(content))

    @routes.get(
        "/styles/{name}.webp",
        summary="Show a photograph painted in a preset",
        response_class=Response,
        responses=openapi.answers(
            {
                "description": "The painting.",
                "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
            },
            (*openapi.PAGE_PROBLEMS, "not-found"),
        ),
    )
    async def get_style_painting(request: Request, name: str) -> Response:
        entry = default()
        missing = NotFound("There is no such painting. GET /styles lists what there is.")
        if entry is None or entry.manifest is None or _painting(name) not in entry.manifest.files:
            raise missing
        try:  # The manifest's list is what may be read: no name leads anywhere else.
            data = await asyncio.to_thread((entry.folder / _painting(name)).read_bytes)
        except FileNotFoundError:  # the model is in memory and was removed from disk
            raise missing from None
        return responses.revalidate(request.headers, Response(data, media_type="image/webp"))

    return routes


def _painting(name: str) -> str:
    return f"styles/{name}.webp"
