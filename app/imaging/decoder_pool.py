"""A pool of decoder processes: measures and decodes files of strangers where nothing but their own answer can break."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import structlog

from app.errors import ServiceError, ShuttingDown
from app.imaging.decoder_processes import Decoder, DecoderBug, DecoderServer, Source, explain_end
from app.imaging.decoder_queue import DecoderQueue
from app.imaging.decoder_wire import ProtocolError
from app.imaging.picture import Picture

log = structlog.get_logger(__name__)

FAILURES = ("crash", "killed", "timeout")
"""Reasons why a process ends in the middle of a file: a crash, the system or an operator, its deadline."""
LARGE_PIXELS = 4_000_000
"""Pixels from which a picture is large: it does not use the last decoder."""


def is_supported() -> bool:
    """Tell whether this system has what decoder processes need: Linux has."""
    return hasattr(os, "fork") and hasattr(os, "memfd_create")


class DecoderPool:
    """Measures and decodes files in `size` processes. Each may use `memory_bytes` above its start, and is ended when a
    file takes it longer than `timeout_s`. A crash, an end and a lack of memory are errors of that file alone.
    """

    def __init__(self, size: int, *, memory_bytes: int, timeout_s: float) -> None:
        self.queue = DecoderQueue(size)
        self.failures: Counter[str] = Counter()
        """Number of processes that ended in the middle of a file, by reason (one of FAILURES)."""
        self.size = size
        self._timeout_s = timeout_s
        self._server = DecoderServer(memory_bytes)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="decoder")
        self._lock = threading.Lock()  # guards the next two
        self._idle: list[Decoder] = []
        self._busy: set[Decoder] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The ids of the decoder processes, without their server."""
        with self._lock:
            return [decoder.pid for decoder in (*self._busy, *self._idle)]

    @property
    def busy_pids(self) -> set[int]:
        """The ids of those that work on a file now."""
        with self._lock:
            return {decoder.pid for decoder in self._busy}

    @property
    def server_pid(self) -> int | None:
        """The id of the process that they are forked from."""
        return self._server.pid

    def start(self) -> None:
        """Begin to start the processes. Does not wait for them."""
        self._server.start()
        for _ in range(self.size):
            self._threads.submit(self._prepare)

    async def close(self) -> None:
        """End all processes. Calls get ShuttingDown from now on."""
        self._is_closed = True
        with self._lock:
            busy = tuple(self._busy)
        for decoder in busy:
            decoder.abort()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        for decoder in self._idle:
            decoder.close()
        self._idle.clear()
        self._server.stop()

    async def measure(self, source: Source, *, max_pixels: int, client: str) -> tuple[int, int]:
        """Return `codec.measure` of a file, and raise what it raises. Also BrokenImage, TooManyPixels for a file that
        ends its process, Overloaded, ShuttingDown."""
        width, height = await self._call("measure", source, max_pixels, client, is_large=False)
        return width, height

    async def decode(self, source: Source, *, max_pixels: int, client: str, pixels: int = 0) -> Picture:
        """Return `codec.decode` of a file of so many `pixels`, and raise what it raises, and what `measure` does."""
        picture = await self._call("decode", source, max_pixels, client, is_large=pixels >= LARGE_PIXELS)
        assert isinstance(picture, Picture)
        return picture

    async def _call(self, verb: str, source: Source, max_pixels: int, client: str, *, is_large: bool) -> Any:
        async with self.queue.turn(client, is_large=is_large):
            if self._is_closed:
                raise ShuttingDown("The service is shutting down.", retry_after=5)
            call = _Call(verb, source, max_pixels)
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._run, call)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                call.cancel()
                await asyncio.wait({running})  # moments: until its process has ended and its memory is free
                if not running.cancelled():
                    running.exception()
                raise

    def _run(self, call: _Call) -> Any:
        """Return the result of a call. Runs on a thread."""
        decoder = self._take()
        try:
            call.begin(decoder)
            result = decoder.call(call.verb, call.source, call.max_pixels, self._timeout_s)
        except (ServiceError, DecoderBug):
            self._give_back(decoder)
            raise
        except (EOFError, OSError, ProtocolError) as error:
            raise self._explain(decoder, error, self._discard(decoder)) from error
        except BaseException:
            self._discard(decoder)
            raise
        self._give_back(decoder)
        return result

    def _explain(self, decoder: Decoder, error: Exception, status: int | None) -> ServiceError:
        if self._is_closed:
            return ShuttingDown("The service was shut down before the picture was decoded.", retry_after=5)
        reason, result = explain_end(error, status, self._timeout_s)
        if not decoder.is_aborted:
            self.failures[reason] += 1
            log.warning("decoder ended", reason=reason, pid=decoder.pid, status=status)
        return result

    def _take(self) -> Decoder:
        """Return a decoder that is idle, or a new one. Raises Overloaded, ShuttingDown."""
        while True:
            with self._lock:
                decoder = self._idle.pop() if self._idle else None
                if decoder is not None:
                    self._busy.add(decoder)
            if decoder is None:
                decoder = self._server.fork()
                with self._lock:
                    self._busy.add(decoder)
            if self._is_closed:
                self._discard(decoder)
                raise ShuttingDown("The service is shutting down.", retry_after=5)
            if not decoder.has_ended:
                return decoder
            self._discard(decoder)  # ended by the kernel, for memory, or by an operator

    def _give_back(self, decoder: Decoder) -> None:
        if decoder.is_worn or decoder.is_aborted:
            self._discard(decoder)
            return
        with self._lock:
            self._busy.discard(decoder)
            self._idle.append(decoder)

    def _discard(self, decoder: Decoder) -> int | None:
        status = self._server.end(decoder)
        with self._lock:
            self._busy.discard(decoder)
        return status

    def _prepare(self) -> None:
        """Start one process before it is needed."""
        with suppress(ServiceError):
            if not self._is_closed and len(self.pids) < self.size:
                decoder = self._server.fork()
                with self._lock:
                    self._idle.append(decoder)


class _Call:
    """A call that may be cancelled from another thread, before it begins or while its decoder works."""

    def __init__(self, verb: str, source: Source, max_pixels: int) -> None:
        self.verb, self.source, self.max_pixels = verb, source, max_pixels
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None
        self._is_cancelled = False

    def begin(self, decoder: Decoder) -> None:
        """Note which decoder works on it."""
        with self._lock:
            self._decoder = decoder
            if self._is_cancelled:
                decoder.abort()

    def cancel(self) -> None:
        """End the decoder that works on it."""
        with self._lock:
            self._is_cancelled = True
            if self._decoder is not None:
                self._decoder.abort()
