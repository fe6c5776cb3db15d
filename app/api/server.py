"""The uvicorn server with limits that uvicorn lacks: on shutdown, and on idle or slow connections."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn

from app.api.connection import Connection
from app.api.lifecycle import Shutdown
from app.settings import Settings

if sys.platform == "linux":
    import fcntl
    import termios

log = structlog.get_logger(__name__)

QUIET_S = 30.0
"""Seconds after which a connection without a request in progress is closed, also if it sends the head of its request
too slowly or never reads. A response of which the client reads nothing for so long is aborted, too."""
LAST_S = 5.0
"""Seconds at the end for the last answers to go out, and again for what runs on threads to be let go."""

_NO_SUCH_ADDRESS = errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT


class ListenError(Exception):
    """The address cannot be listened on. Its text is one line for the person who starts the service."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket bound to each address of `host`; they do not listen yet. Raises ListenError.

    Called before models are loaded, so that an address that is in use is noticed at once.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _listen_error(host, port, error) from None
    sockets: list[socket.socket] = []
    failures: list[OSError] = []
    for family, *_, address in found:
        try:
            sockets.append(_bind_one(family, address))
        except OSError as error:
            failures.append(error)
    # `localhost` may name an IPv6 address on a machine without IPv6: the other address is enough then.
    fatal = [error for error in failures if not sockets or error.errno not in _NO_SUCH_ADDRESS]
    if fatal:
        for one in sockets:
            one.close()
        raise _listen_error(host, port, fatal[0])
    return sockets


def _bind_one(family: int, address: Any) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY on the connections. Without it, all answers but the first of a
    # connection wait until the client has acknowledged their head, which takes 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it lets two processes use the same port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _listen_error(host: str, port: int, error: OSError) -> ListenError:
    """Return the ListenError for an error of the system."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"{where} is already in use. Set another port: RESTORE_PORT=8001, or make serve PORT=8001.")
    reason = (error.strerror or str(error)).lower()
    return ListenError(f"cannot listen on {where}: {reason}. Set RESTORE_HOST and RESTORE_PORT (make: HOST and PORT).")


class Server(uvicorn.Server):
    """Calls `on_listening` when it listens; ends within its limit; drops connections that keep quiet. Running it raises
    ListenError where its address cannot be listened on.

    `shutdown` is told of a signal at once: kept connections are refused new work then. After `RESTORE_STOP_TIMEOUT_S`
    whatever is still under way is answered with ShuttingDown. A thread that then holds up the end, because a device
    hangs, is left. `report` is called with the slug of each problem of requests that no application saw.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        shutdown: Shutdown,
        settings: Settings,
        on_listening: Callable[[], object],
        report: Callable[[str], object],
    ) -> None:
        # Regardless of what is installed: `_drop_quiet_connections` needs connections of h11.
        config.http, config.ws = cast("type[asyncio.Protocol]", partial(Connection, report=report)), "none"
        config.timeout_graceful_shutdown = math.ceil(settings.stop_timeout_s + LAST_S)
        super().__init__(config)
        self._shutdown = shutdown
        self._limit = settings.stop_timeout_s
        self._body_timeout_s = settings.body_timeout_s
        self._on_listening = on_listening
        self._quiet: dict[Any, tuple[object, int, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            await self.lifespan.shutdown()
            raise _listen_error(self.config.host, self.config.port, error) from None
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
            # Exit even if a thread cannot be stopped.
            leaving = threading.Timer(self._limit + 2 * LAST_S, _leave)
            leaving.daemon = True
            leaving.start()
        super().handle_exit(sig, frame)

    def _drop_quiet_connections(self) -> None:
        """Abort connections without a request for QUIET_S, or whose client reads nothing of a response for QUIET_S or
        `body_timeout_s`, whichever is longer."""
        now, patience = time.monotonic(), max(QUIET_S, self._body_timeout_s)
        before, self._quiet = self._quiet, {}
        for connection in self.server_state.connections:
            assert isinstance(connection, Connection)
            cycle, transport = connection.cycle, connection.transport
            idle = cycle is None or cycle.response_complete or transport.is_closing()
            unread = 0 if idle else _unread(transport)
            last_cycle, last_unread, since = before.get(connection, (None, 0, now))
            # Another cycle: there was a request since the last check. Fewer bytes: the client reads.
            quiet = last_cycle is cycle if idle else 0 < last_unread <= unread
            since = since if quiet else now
            self._quiet[connection] = cycle if idle else None, unread, since
            if now - since > (QUIET_S if idle else patience):
                transport.abort()


def ignore_signals() -> None:
    """Exit cleanly after a requested shutdown: uvicorn raises the signal again when it has finished."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)


def _unread(transport: asyncio.Transport) -> int:
    """Return the bytes of responses that the client has not received, or 0 if all are in the buffers of the system.

    The buffers of the system count, because they hold megabytes: by the transport's buffer alone, a slow client would
    seem to read nothing for a long time. Always 0 on systems other than Linux.
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
    log.error("process ended while a thread was still running")
    os._exit(1)
