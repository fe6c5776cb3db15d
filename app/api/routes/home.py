"""The page at `/` for people with a browser, its files, and the index of the service for programs."""

from __future__ import annotations

import gzip
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app import media_types
from app.api import openapi, responses, schemas
from app.api.problems import NotFound
from app.api.responses import PAGE_HEADERS

FOLDER = Path(__file__).resolve().parent.parent / "page"
LINKS = {
    "docs": "/docs",
    "openapi": "/openapi.json",
    "models": "/models",
    "styles": "/styles",
    "problems": "/problems",
    "readiness": "/readyz",
}
_COMPRESSED = ("text/html", "text/css", "text/javascript", "image/svg+xml")
_VARY = {"Vary": "Accept, Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page: its content, also compressed where that pays, and its media type."""

    content: bytes
    compressed: bytes | None
    media_type: str


def router(index: Mapping[str, Any]) -> APIRouter:
    """Return the endpoints. `index` is the content of `schemas.Index` without its links."""
    routes = APIRouter(tags=["service"])
    files = {path.name: _read(path) for path in sorted(FOLDER.iterdir())}
    page = files.pop("index.html")

    @routes.get(
        "/",
        summary="Open the page, or get the index of the service",
        description="A page for browsers, if `Accept` names `text/html`. Else name, version, limits and the paths of "
        "the other endpoints, as JSON.",
        response_model=schemas.Index,
        responses=openapi.answers({"description": "The index."}, ("internal-error",)),
    )
    async def get_index(request: Request) -> Response:
        if media_types.names_html(request.headers.get("accept")):
            return _send(request, page)
        return responses.revalidate(request.headers, JSONResponse({**index, "links": LINKS}, headers=_VARY))

    @routes.get("/page/{name}", include_in_schema=False)
    async def get_page_file(request: Request, name: str) -> Response:
        if name not in files:
            raise NotFound("There is no such file. Open `/`.")
        return _send(request, files[name])

    return routes


def _read(path: Path) -> _File:
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    content = path.read_bytes()
    compressed = gzip.compress(content, mtime=0) if media_type in _COMPRESSED else None
    return _File(content, compressed, media_type)


def _send(request: Request, file: _File) -> Response:
    """Return the file, compressed if the browser can read that; 304 if it has it already."""
    headers = {**PAGE_HEADERS, **_VARY}
    if file.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return responses.revalidate(request.headers, Response(file.compressed, 200, headers, file.media_type))
    return responses.revalidate(request.headers, Response(file.content, 200, headers, file.media_type))
