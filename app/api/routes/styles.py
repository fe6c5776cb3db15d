"""The style endpoints: `GET /styles` and a sample picture of each style."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from app.api import openapi, responses, schemas
from app.api.problems import NotFound
from app.engine.protocol import ModelServer, ModelStatus

StyleName = Annotated[str, Path(description="Name of the style preset.", examples=["starry-night"])]


def router(engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["models"])

    def default() -> ModelStatus | None:
        """Return the model whose presets are listed, or None."""
        chosen = [manifest.id for manifest in engine.defaults() if manifest.task == "stylize"]
        return next((entry for entry in engine.statuses() if entry.id in chosen), None)

    @routes.get(
        "/styles",
        summary="List the style presets",
        description="The presets of the default model of `/stylize`, each with a sample photo in that style.",
        response_model=schemas.StyleList,
        responses=openapi.answers({"description": "All presets."}, openapi.PAGE_PROBLEMS),
    )
    async def list_styles(request: Request) -> Response:
        entry = default()
        listed: list[dict[str, Any]] = []
        if entry is not None and entry.manifest is not None:
            for style in entry.manifest.styles:
                preview = f"/styles/{style.name}.webp" if _preview(style.name) in entry.manifest.files else None
                listed.append({**style.model_dump(), "preview": preview, "painting": preview})
        content = {"model": entry.id if entry else None, "styles": listed}
        return responses.revalidate(request.headers, JSONResponse(content))

    @routes.get(
        "/styles/{name}.webp",
        summary="Download a sample photo in a style",
        response_class=Response,
        responses=openapi.answers(
            {
                "description": "The sample photo.",
                "content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}},
            },
            (*openapi.PAGE_PROBLEMS, "not-found"),
        ),
    )
    async def get_style_painting(request: Request, name: StyleName) -> Response:
        entry = default()
        missing = NotFound(f"There is no style {name[:60]!r}. `GET /styles` lists all styles.")
        if entry is None or entry.manifest is None or _preview(name) not in entry.manifest.files:
            raise missing
        try:  # Only files in the manifest's list are read, so no name can lead outside the folder.
            data = await asyncio.to_thread((entry.folder / _preview(name)).read_bytes)
        except FileNotFoundError:  # the model was removed from disk after it was loaded
            raise missing from None
        return responses.revalidate(request.headers, Response(data, media_type="image/webp"))

    return routes


def _preview(name: str) -> str:
    return f"styles/{name}.webp"
