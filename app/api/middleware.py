"""ASGI middleware: request id, access log, request metrics, HEAD, authentication and rate limit."""

from __future__ import annotations

import math
import re
import time
import uuid
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.api.auth import Authenticator
from app.api.metrics import Metrics
from app.errors import ServiceError
from app.limits.rate import RateLimiter, RateStatus

log = structlog.get_logger("restore.requests")

EXPOSED_HEADERS = [
    "X-Model",
    "X-Applied",
    "X-Request-Id",
    "Server-Timing",
    "Link",
    "Content-Disposition",
    "Content-Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Location",
    "Preference-Applied",
    "ETag",
]
ACCEPTED_HEADERS = [
    "Authorization",
    "X-API-Key",
    "X-Request-Id",
    "Cancel-After",
    "Prefer",
    "Idempotency-Key",
    "If-None-Match",
]

NOSNIFF = {"X-Content-Type-Options": "nosniff"}
"""A header of every response: browsers must not take a picture or a text for anything else."""

OPEN = re.compile(r"/|/page/.*|/livez|/readyz|/docs(/.*)?|/openapi\.json|/problems(/.*)?")
"""Paths that need no API key and do not count towards the rate limit."""

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(scope: Scope) -> str:
    """Return the id of the request: the one that the client sent if it is valid, else a new one."""
    return str(scope["state"]["request_id"])


class AccessLogMiddleware:
    """Gives each request an id, logs it in one line and counts it; uncaught exceptions become `internal-error`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        given = Headers(scope=scope).get("x-request-id", "")
        state["request_id"] = given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex
        started = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({"X-Request-Id": state["request_id"], **NOSNIFF})
            await send(message)

        self.metrics.active.inc()
        try:
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499
        except Exception:
            log.exception("internal error", request_id=state["request_id"])
            if status:  # the response has started: abort it, so that it does not look complete
                raise
            state["problem"] = "internal-error"
            error = problems.InternalError(problems.INTERNAL_ERROR)
            await problems.response(error, state["request_id"])(scope, receive, sending)
        finally:
            self.metrics.active.dec()
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        path = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
        self.metrics.requests.labels(path, method, status).inc()
        self.metrics.request_duration.labels(path).observe(seconds)
        if "problem" in state:
            self.metrics.problems.labels(state["problem"]).inc()
        facts = {key: state[key] for key in ("problem", "client", "model") if key in state}
        write = log.error if status >= 500 and state.get("problem") == "internal-error" else log.info
        write(
            "request",
            method=scope["method"],
            path=scope["raw_path"].decode("ascii", "replace"),
            status=status or 499,
            seconds=round(seconds, 4),
            request_id=state["request_id"],
            **facts,
        )


class HeadMiddleware:
    """Responds to HEAD as to GET, with the same headers. The server omits the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        # A copy, so that the server and the log still see HEAD.
        scope["state"]["head"] = True
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, send)
        finally:
            scope["route"] = asked.get("route")


class AuthMiddleware:
    """Admits clients with a valid key, where keys are set, within the rate limit.

    Where a rate limit is set, responses to requests that count for it have the headers `RateLimit` and
    `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, rate: RateLimiter | None) -> None:
        self.app = app
        self.authenticator = authenticator
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["state"]
        try:
            if OPEN.fullmatch(scope["path"]):
                state["client"] = self.authenticator.address(scope)
            else:
                state["client"] = self.authenticator.client(scope)
                if self.rate is not None:
                    status = self.rate.take(state["client"])
                    send = _add_headers(send, rate_limit_headers(self.rate, status))
                    if not status.allowed:
                        raise self.rate.refusal(status)
        except ServiceError as error:
            state["problem"] = problems.of(error).slug
            await problems.response(error, state["request_id"])(scope, receive, send)
            return
        await self.app(scope, receive, send)


def rate_limit_headers(rate: RateLimiter, status: RateStatus) -> dict[str, str]:
    """Return the limit and what is left of it: requests now (`r`), and the whole seconds until one more (`t`)."""
    return {
        "RateLimit-Policy": f'"default";q={rate.requests};w={rate.seconds:.0f}',
        "RateLimit": f'"default";r={status.remaining};t={max(1, math.ceil(status.wait))}',
    }


def _add_headers(send: Send, headers: dict[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return sending
