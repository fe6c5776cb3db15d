"""The style endpoints: `GET /styles` and a sample picture of each style."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from app.api import openapi, responses, schemas
from app.api.problems import NotFound
from app.engine.protocol import ModelServer, ModelStatus
from app.errors import ModelUnavailable, UnknownModel
from app.tasks.stylize.task import PRESETS
from models.manifest import Manifest

StyleName = Annotated[str, Path(description="Name of the style preset.", examples=["starry-night"])]


def router(engine: ModelServer) -> APIRouter:
    """Return the endpoints."""
    routes = APIRouter(tags=["models"])

    def painters() -> list[tuple[ModelStatus, Manifest]]:
        """Return the models whose presets are listed, those first that a request is painted with first."""
        found = []
        for name in (PRESETS, None):
            with suppress(UnknownModel, ModelUnavailable):
                found.append(engine.find("stylize", name).id)
        by_id = {entry.id: entry for entry in engine.statuses()}
        known = [by_id[one] for one in dict.fromkeys(found) if one in by_id]
        return [(entry, entry.manifest) for entry in known if entry.manifest is not None]

    @routes.get(
        "/styles",
        summary="List the style presets",
        description="The presets of `/stylize`, each with a sample photo in that style.",
        response_model=schemas.StyleList,
        responses=openapi.answers({"description": "All presets."}, openapi.PAGE_PROBLEMS),
    )
    async def list_styles(request: Request) -> Response:
        listed: dict[str, dict[str, Any]] = {}
        models = painters()
        for _, manifest in models:
            for style in manifest.styles:
                preview = f"/styles/{style.name}.webp" if _preview(style.name) in manifest.files else None
                entry = {**style.model_dump(), "preview": preview, "painting": preview, "model": manifest.id}
                listed.setdefault(style.name, entry)
        content = {"model": models[0][1].id if models else None, "styles": list(listed.values())}
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
        missing = NotFound(f"There is no style {name[:60]!r}. `GET /styles` lists all styles.")
        # The first model that has the style is the one that `GET /styles` means.
        models = (pair for pair in painters() if name in (style.name for style in pair[1].styles))
        entry, manifest = next(models, (None, None))
        if entry is None or manifest is None or _preview(name) not in manifest.files:
            raise missing
        try:  # Only files in the manifest's list are read, so no name can lead outside the folder.
            data = await asyncio.to_thread((entry.folder / _preview(name)).read_bytes)
        except FileNotFoundError:  # the model was removed from disk after it was loaded
            raise missing from None
        return responses.revalidate(request.headers, Response(data, media_type="image/webp"))

    return routes


def _preview(name: str) -> str:
    return f"styles/{name}.webp"
