"""A connection of HTTP/1.1: answers what is not a request with a problem document, and leaves no doubt where a request
ends."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable
from typing import Any

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from app.api import problems
from app.api.middleware import NOSNIFF
from app.errors import MalformedRequest

log = structlog.get_logger("restore.requests")

MAX_HEAD_BYTES = 16 * 1024
"""Limit of the request line and the headers together."""
LINGER_S = 2.0
"""Seconds in which a client that is still sending can read why its request is refused, before the connection closes."""

_BOTH_LENGTHS = {b"content-length", b"transfer-encoding"}


class Connection(H11Protocol):
    """A connection of uvicorn. `report` is called with the slug of each problem that no application saw."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        report: Callable[[str], object],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Parser(h11.SERVER, MAX_HEAD_BYTES)
        self._report = report
        self._checked: object = None
        self._refused = False

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        if self._refused:
            return
        super().handle_events()
        if self.cycle is not self._checked:  # a new request; its application has not begun yet
            self._checked = self.cycle
            _close_if_ambiguous(self.headers)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer the protocol error that is being handled, and close the connection."""
        self._refused = True
        can_answer = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if self.cycle is not None:  # an application that waits for the rest of a body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not can_answer:
            self.transport.close()
            return
        request_id = uuid.uuid4().hex
        error = MalformedRequest(_explain(sys.exc_info()[1]))
        answer = problems.response(error, request_id)
        answer.headers["X-Request-Id"] = request_id
        answer.headers.update(NOSNIFF)
        reason = STATUS_PHRASES[answer.status_code]
        headers = [*answer.raw_headers, CLOSE_HEADER]
        head = h11.Response(status_code=answer.status_code, headers=headers, reason=reason)
        events = head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        slug = problems.of(error).slug
        self._report(slug)
        log.info("malformed request", problem=slug, detail=error.detail, request_id=request_id)
        self._linger()

    def _linger(self) -> None:
        """Close after the client has, or after LINGER_S: closing while it sends would discard the answer."""
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


class _Parser(h11.Connection):
    """Refuses other versions than HTTP/1.x, which h11 takes for HTTP/1.1."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and not event.http_version.startswith(b"1."):
            raise h11.RemoteProtocolError("HTTP/2 is not supported here; use HTTP/1.1")
        return event


def _close_if_ambiguous(headers: list[tuple[bytes, bytes]]) -> None:
    """Close the connection after a request with two lengths, as if its client had asked for it: what follows may be
    part of the body to a proxy, and a request of somebody else here."""
    if {name for name, _ in headers} >= _BOTH_LENGTHS:
        headers.append(CLOSE_HEADER)


def _explain(error: BaseException | None) -> str:
    """Return what is wrong with a request, without repeating its bytes."""
    if getattr(error, "error_status_hint", 0) == 431:
        return f"The request line and the headers exceed {MAX_HEAD_BYTES // 1024} KiB."
    reason = str(error).partition(": b")[0].partition(": {")[0].rstrip(".")
    return f"The request is not well-formed HTTP/1.1: {reason}."
