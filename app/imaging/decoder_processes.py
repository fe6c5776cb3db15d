"""Starts and ends decoder processes, and calls them: the side of the service."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog

from app.errors import BrokenImage, Overloaded, ServiceError, TooManyPixels
from app.imaging import decoder_wire
from app.imaging.decoder_memory import MappedSegment, SegmentCache
from app.imaging.decoder_wire import ProtocolError

log = structlog.get_logger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0
_STOP_S = 10.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Source(Protocol):
    """A file to decode."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def descriptor(self) -> int | None:
        """The file descriptor, if it is on disk."""

    def read(self) -> bytes:
        """Return the bytes."""


class DecoderBug(RuntimeError):
    """The codec raised an exception that is none of its own; the text is its traceback."""


class Decoder:
    """A decoder process, which decodes one file at a time."""

    def __init__(self, pid: int, connection: socket.socket, segments: SegmentCache) -> None:
        self.pid = pid
        self.is_aborted = False
        """Whether `abort` was called."""
        self.is_worn = False
        """Whether the process asked to be replaced: it has kept too much memory, or done many calls."""
        self._connection = connection
        self._segments = segments

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended while it had nothing to do."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(0))

    def call(self, verb: str, source: Source, max_pixels: int, timeout_s: float) -> Any:
        """Return the result of `codec.measure` or `codec.decode` in the process.

        Raises ServiceError and DecoderBug from there; EOFError, OSError, TimeoutError, ProtocolError if the process
        must be ended.
        """
        deadline = time.monotonic() + timeout_s
        kept = self._segments.take() if verb == "decode" else None
        self._send({"do": verb, "max_pixels": max_pixels, "size": source.size}, source, kept, timeout_s)
        answer, _, descriptors = decoder_wire.receive(self._connection, deadline)
        made = MappedSegment(descriptors[0]) if descriptors else None
        self.is_worn = bool(answer.get("retire"))
        if kept is not None and (made is not None or "value" not in answer):
            self._segments.give_back(kept)
            kept = None
        if "error" in answer:
            raise decoder_wire.rebuild_error(answer["error"])
        if "bug" in answer:
            raise DecoderBug(answer["bug"])
        segment = made or kept
        memory = np.empty(0, np.uint8) if segment is None else self._segments.view(segment)
        return decoder_wire.rebuild(answer.get("value"), memory)

    def _send(self, message: dict[str, Any], source: Source, kept: MappedSegment | None, timeout_s: float) -> None:
        self._connection.settimeout(timeout_s)
        descriptor = source.descriptor
        descriptors = [] if descriptor is None else [descriptor]
        descriptors += [] if kept is None else [kept.descriptor]
        data = source.read() if descriptor is None else b""
        decoder_wire.send(self._connection, message | {"kept": kept is not None}, data, descriptors)

    def abort(self) -> None:
        """Make a call that another thread waits for raise EOFError."""
        self.is_aborted = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection: the process ends when it has nothing to do."""
        self._connection.close()


class DecoderServer:
    """The process that decoder processes are forked from; started again if it ends. Safe from any thread."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._segments = SegmentCache()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process, if it was started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process. It takes part of a second until it can fork; nothing waits for it here."""
        with self._lock:
            if self._process is None:
                self._start()

    def fork(self) -> Decoder:
        """Return a new decoder process. Raises Overloaded if the system has no room for one."""
        with self._lock:
            for _ in range(2):
                try:
                    answer, descriptors = self._ask({"do": "fork"})
                except (EOFError, OSError, ProtocolError) as error:
                    log.warning("decoder server ended", error=type(error).__name__)
                    self._stop()
                    continue
                if descriptors:
                    return Decoder(answer["pid"], socket.socket(fileno=descriptors[0]), self._segments)
                log.error("decoder not started", error=answer.get("failed"))
                break
        raise Overloaded("No process can be started to decode the picture. Try again later.", retry_after=5)

    def end(self, decoder: Decoder) -> int | None:
        """End a decoder process. Return its exit code, or minus the signal that had ended it; None if it is unknown."""
        decoder.close()
        with self._lock:
            if self._control is None:
                return None
            try:
                answer, _ = self._ask({"do": "end", "pid": decoder.pid})
            except (EOFError, OSError, ProtocolError):
                self._stop()  # its decoder processes end with it
                return None
            status = answer.get("exit")
            return status if isinstance(status, int) else None

    def stop(self) -> None:
        """End the process and all decoder processes, and wait until they have ended."""
        with self._lock:
            self._stop()
        self._segments.clear()

    def _start(self) -> None:
        own, theirs = socket.socketpair()
        command = [sys.executable, "-m", "app.imaging.decoder_worker", str(theirs.fileno()), str(self._memory_bytes)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=os.environ | _ONE_THREAD,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the service, which still needs its decoders
            )
        self._control = own

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None

    def _ask(self, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        if self._control is None:
            self._start()
        assert self._control is not None
        self._control.settimeout(_START_S)
        decoder_wire.send(self._control, message)
        answer, _, descriptors = decoder_wire.receive(self._control, time.monotonic() + _START_S)
        return answer, descriptors


def explain_end(error: Exception, status: int | None, timeout_s: float) -> tuple[str, ServiceError]:
    """Return the reason (`timeout`, `killed` or `crash`) why a process ended in the middle of a file, and the error for
    its caller. `status` is what `DecoderServer.end` returned."""
    if isinstance(error, TimeoutError):
        text = f"The picture was not decoded within {timeout_s:g} seconds. Re-export it."
        return "timeout", BrokenImage(text, field="image")
    if isinstance(error, EOFError) and status == -signal.SIGKILL:
        text = "The process that decoded the picture was ended, probably because memory ran out. Scale it down."
        return "killed", TooManyPixels(text, field="image")
    return "crash", BrokenImage("Decoding the picture crashed. Re-export it.", field="image")
