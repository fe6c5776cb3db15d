"""Pages for people: Swagger UI from local assets, the OpenAPI document, and explanations of problems."""

from __future__ import annotations

import importlib.util
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as Param
from fastapi.responses import HTMLResponse, JSONResponse, Response

from app import media_types
from app.api import openapi, problem_pages, problems, schemas
from app.api.problems import NotFound
from app.api.responses import PAGE_HEADERS

ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "favicon-16x16.png")

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


Slug = Annotated[str, Param(description="Slug of the problem.", examples=["unknown-field"])]


def router(document: Callable[[], bytes]) -> APIRouter:
    """Return the endpoints. `document` returns the OpenAPI document as JSON; the first call is slow."""
    routes = APIRouter(tags=["service"])
    dist = _assets()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_PAGE, headers=PAGE_HEADERS)

    @routes.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, headers=PAGE_HEADERS, media_type="text/javascript")

    @routes.get("/docs/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound("There is no such page. Open `/docs`.")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {**PAGE_HEADERS, "Cache-Control": "public, max-age=3600"}
        return Response((dist / name).read_bytes(), headers=headers, media_type=kind)

    @routes.get(
        "/openapi.json",
        summary="Download the OpenAPI document",
        response_class=JSONResponse,
        responses=openapi.answers({"description": "The document, OpenAPI 3.1."}, ("internal-error",)),
    )
    def get_openapi_document() -> Response:
        return Response(document(), media_type="application/json")

    @routes.get(
        "/problems",
        summary="List all problems",
        description="The errors that this API returns. A page for browsers, or JSON if `Accept` prefers it.",
        response_class=HTMLResponse,
        responses=openapi.answers(
            {
                "description": "All problems, ordered by HTTP status.",
                "content": {"application/json": {"schema": openapi.reference(schemas.ProblemTypeList)}},
            },
            ("internal-error",),
        ),
    )
    async def list_problems(request: Request) -> Response:
        headers = {**PAGE_HEADERS, "Vary": "Accept"}
        if media_types.prefers_json(request.headers.get("accept"), alternative="text/html"):
            rows = sorted(problems.TABLE, key=lambda row: row.status)
            listed = [{name: getattr(row, name) for name in schemas.ProblemType.model_fields} for row in rows]
            return JSONResponse({"problems": listed}, headers=headers)
        return HTMLResponse(problem_pages.render_list(), headers=headers)

    @routes.get(
        "/problems/{slug}",
        summary="Explain a problem",
        description="A page with what the problem means, what to do, and an example. `type` of a problem document "
        "is its path.",
        response_class=HTMLResponse,
        responses=openapi.answers({"description": "The page."}, ("not-found", "internal-error")),
    )
    async def get_problem(slug: Slug) -> Response:
        if slug not in problems.BY_SLUG:
            raise NotFound(f"There is no problem {slug[:60]!r}. `GET /problems` lists all problems.")
        return HTMLResponse(problem_pages.render_page(problems.BY_SLUG[slug]), headers=PAGE_HEADERS)

    return routes


def _assets() -> Path:
    """Return the folder of Swagger UI's files. The package is not imported, because that needs Flask."""
    found = importlib.util.find_spec("flask_swagger_ui")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("the package flask-swagger-ui is not installed")
    return Path(found.submodule_search_locations[0]) / "dist"
