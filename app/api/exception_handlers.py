"""Every refusal becomes a problem document (RFC 9457), Starlette's and FastAPI's own included."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from app.api import problems
from app.errors import InvalidField, MalformedRequest, ServiceError


def install(app: FastAPI) -> None:
    """Let `app` answer its errors as problems."""
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
        error = InvalidField("A value in the address or its query is not allowed.")
    request.state.problem = problems.of(error).slug
    response = problems.response(error, request.state.request_id)
    response.headers.update(headers)
    return response


def _find_allowed_methods(request: Request) -> list[str]:
    """Return every method that the address takes: Starlette's own header lists those of one route alone."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)

    methods = [method for method in ("DELETE", "GET", "POST") if takes(method)]
    return [*methods, "HEAD"] if "GET" in methods else methods


def _translate(status: int, request: Request) -> ServiceError:
    """Return the ServiceError for a status that Starlette answers by itself."""
    if status == 404:
        return problems.NotFound("There is nothing at this address. /docs lists what there is.")
    if status == 405:
        return problems.MethodNotAllowed(f"This address does not take {request.method[:20]}.")
    return MalformedRequest("The request cannot be read.")
