"""The server around the application: what uvicorn leaves open at the end of a process, and of a connection."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.lifecycle import Shutdown
from app.settings import Settings

if sys.platform == "linux":
    import fcntl
    import termios

log = structlog.get_logger(__name__)

QUIET_S = 30.0
"""Seconds for which a connection may be open without a request under way: one that never sends the head of its request,
or sends it byte by byte, or does not let itself be closed because it never reads. For so long an answer may lie there
of which nothing is taken, too."""
LAST_S = 5.0
"""Seconds at the end for the last answers to go out, and again for what runs on threads to be let go."""


class Server(uvicorn.Server):
    """Calls `on_listening` when it listens; ends within its limit; drops connections that keep quiet.

    `shutdown` is told of a signal at once: kept connections are refused new work then. After `RESTORE_STOP_TIMEOUT_S`
    whatever is still under way is answered with ShuttingDown. A thread that then holds up the end, because a device
    hangs, is left.
    """

    def __init__(
        self, config: uvicorn.Config, shutdown: Shutdown, settings: Settings, on_listening: Callable[[], object]
    ) -> None:
        # Whatever else is installed: `_drop_quiet_connections` looks into every connection, and speaks h11 alone.
        config.http, config.ws = "h11", "none"
        config.timeout_graceful_shutdown = math.ceil(settings.stop_timeout_s + LAST_S)
        super().__init__(config)
        self._shutdown = shutdown
        self._limit = settings.stop_timeout_s
        self._body_timeout_s = settings.body_timeout_s
        self._on_listening = on_listening
        self._quiet: dict[Any, tuple[object, int, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._drop_quiet_connections()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = self._shutdown.expire_after(self._limit)
        await super().shutdown(sockets)
        ending.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._shutdown.closing:
            self._shutdown.begin()
            # Not even a thread that cannot be stopped keeps the process for longer.
            leaving = threading.Timer(self._limit + 2 * LAST_S, _leave)
            leaving.daemon = True
            leaving.start()
        super().handle_exit(sig, frame)

    def _drop_quiet_connections(self) -> None:
        """Cut off connections on which no request has been under way for QUIET_S, or of whose answer nothing was taken
        for so long, or for as long as its body may take to come."""
        now, patience = time.monotonic(), max(QUIET_S, self._body_timeout_s)
        before, self._quiet = self._quiet, {}
        for connection in self.server_state.connections:
            assert isinstance(connection, H11Protocol)
            cycle, transport = connection.cycle, connection.transport
            idle = cycle is None or cycle.response_complete or transport.is_closing()
            unread = 0 if idle else _unread(transport)
            last_cycle, last_unread, since = before.get(connection, (None, 0, now))
            # Another cycle: a request came and went between two looks. Fewer bytes: somebody reads.
            quiet = last_cycle is cycle if idle else 0 < last_unread <= unread
            since = since if quiet else now
            self._quiet[connection] = cycle if idle else None, unread, since
            if now - since > (QUIET_S if idle else patience):
                transport.abort()


def ignore_signals() -> None:
    """Let an asked-for end be a clean one: uvicorn raises the signal again when it is done."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)


def _unread(transport: asyncio.Transport) -> int:
    """Return how many bytes of its answers the other side has yet to take, where more are there than the system holds.

    What the system holds is megabytes and counts: by the transport alone a slow reader seems to take nothing for long.
    0 where the system does not tell, as any but Linux.
    """
    waiting = transport.get_write_buffer_size()
    if sys.platform != "linux" or not waiting:
        return 0
    try:
        held = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # or it is closed
        return 0
    return waiting + int(struct.unpack("i", held)[0])


def _leave() -> None:
    log.error("left with work on a thread that did not end")
    os._exit(1)
