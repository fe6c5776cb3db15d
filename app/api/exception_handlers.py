"""Turns all errors into problem documents (RFC 9457), including those of Starlette and FastAPI."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from app.api import problems
from app.errors import InvalidField, MalformedRequest, ServiceError


def install(app: FastAPI) -> None:
    """Make `app` return errors as problem documents."""
    for kind in (ServiceError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_problem)


async def _answer_problem(request: Request, error: Exception) -> Response:
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        if "Allow" in headers:
            headers["Allow"] = ", ".join(_find_allowed_methods(request))
        error = _translate(error.status_code, request)
    elif not isinstance(error, ServiceError):
        error = InvalidField("A path or query parameter has an invalid value. `/docs` lists the allowed values.")
    request.state.problem = problems.of(error).slug
    response = problems.response(error, request.state.request_id)
    response.headers.update(headers)
    return response


def _find_allowed_methods(request: Request) -> list[str]:
    """Return all methods of an address. Starlette's own `Allow` header lists only those of one route."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)

    methods = [method for method in ("DELETE", "GET", "POST") if takes(method)]
    return [*methods, "HEAD"] if "GET" in methods else methods


def _translate(status: int, request: Request) -> ServiceError:
    """Return the ServiceError for an HTTP error of Starlette."""
    if status == 404:
        return problems.NotFound("Not found. `/docs` lists all endpoints.")
    if status == 405:
        return problems.MethodNotAllowed(f"This address does not support {request.method[:20]}.")
    return MalformedRequest("The request cannot be parsed.")
