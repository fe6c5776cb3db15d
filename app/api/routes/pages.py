"""What a person reads: Swagger UI from our own assets, the OpenAPI document, and what each problem means."""

from __future__ import annotations

import importlib.util
import mimetypes
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, Response

from app.api import openapi, problems
from app.api.problems import NotFound

ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "favicon-16x16.png")

# Nothing from elsewhere; Swagger UI styles its elements in place and shows pictures from blobs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>restore</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""

_START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: -1,
  persistAuthorization: true,
  validatorUrl: null,
});
"""


def router(document: Callable[[], bytes]) -> APIRouter:
    """Return the endpoints. `document` gives the OpenAPI document as JSON; it takes a while the first time."""
    routes = APIRouter(tags=["service"])
    dist = _assets()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_PAGE, headers=_SAFE)

    @routes.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, headers=_SAFE, media_type="text/javascript")

    @routes.get("/docs/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound("There is no such page.")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {**_SAFE, "Cache-Control": "public, max-age=3600"}
        return Response((dist / name).read_bytes(), headers=headers, media_type=kind)

    @routes.get(
        "/openapi.json",
        summary="Show this document",
        response_class=JSONResponse,
        responses=openapi.answers({"description": "OpenAPI 3.1."}, ("internal-error",)),
    )
    def get_openapi_document() -> Response:
        return Response(document(), media_type="application/json")

    @routes.get(
        "/problems/{slug}",
        summary="Explain a problem and what to do",
        response_class=HTMLResponse,
        responses=openapi.answers({"description": "The explanation."}, ("not-found", "internal-error")),
    )
    async def get_problem(slug: str) -> Response:
        if slug not in problems.BY_SLUG:
            raise NotFound(f"There is no problem of that name. There are {', '.join(problems.BY_SLUG)}.")
        return HTMLResponse(problems.page(problems.BY_SLUG[slug]), headers=_SAFE)

    return routes


def _assets() -> Path:
    """Return the folder of Swagger UI's files. The package itself, which needs Flask, is not imported."""
    found = importlib.util.find_spec("flask_swagger_ui")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("the package flask-swagger-ui is not installed")
    return Path(found.submodule_search_locations[0]) / "dist"
