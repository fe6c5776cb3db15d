"""Decoder processes: a small server that imports only the codec, and the workers that are forked from it.

`python -m app.imaging.decoder_worker DESCRIPTOR MEMORY_BYTES` is started by `decoder_processes`, with one end of a
socket as DESCRIPTOR. It ends when the other end is closed, and all workers end with it. Each worker has a socket of its
own, on which it gets files and sends what it decoded. TensorFlow is never imported here.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2

from app.errors import ServiceError, TooManyPixels
from app.imaging import codec, decoder_wire
from app.imaging.decoder_wire import Segment

MAX_CALLS = 1000
"""Calls after which a worker is replaced: libraries leak."""
KEPT_BYTES = 64 << 20
"""Memory that a worker may keep between calls. One that keeps more is replaced."""
_TRIM_BYTES = 8 << 20
_OOM_SCORE = "1000"
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def main() -> None:
    """Fork and end workers on request, until the socket to the service is closed."""
    control, memory_bytes = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    # A terminal and some supervisors signal every process of a service, whose requests still need their pictures.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)
    children: set[int] = set()
    with suppress(EOFError, OSError):
        while True:
            message, _, _ = decoder_wire.receive(control)
            if message["do"] == "fork":
                _fork(control, memory_bytes, children)
            else:
                decoder_wire.send(control, {"exit": _end(message["pid"], children)})
    for child in tuple(children):
        _end(child, children)


def _fork(control: socket.socket, memory_bytes: int, children: set[int]) -> None:
    """Fork a worker, and send its process id and the socket to it."""
    server = os.getpid()
    theirs, own = socket.socketpair()
    with theirs, own:
        try:
            child = os.fork()
        except OSError as error:
            decoder_wire.send(control, {"failed": str(error.strerror)})
            return
        if child == 0:
            try:
                control.close()
                theirs.close()
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() == server:
                    _limit(memory_bytes)
                    _silence_libraries()
                    _work(own)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        children.add(child)
        decoder_wire.send(control, {"pid": child}, descriptors=[theirs.fileno()])


def _end(child: int, children: set[int]) -> int | None:
    """End a worker. Return its exit code, or minus the signal that had ended it; None if there is no such worker."""
    if child not in children:
        return None
    children.remove(child)
    os.kill(child, signal.SIGKILL)  # no effect if it has ended: until `waitpid`, the number is its own
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _limit(memory_bytes: int) -> None:
    """Allow this process `memory_bytes` above what is mapped now, and make it the first to go where memory runs out."""
    limit = _read_memory()[0] + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # without it, the kernel may choose another process
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def _silence_libraries() -> None:
    """Drop what libraries write to standard error: a line for each error in a file, and a file may have thousands."""
    sys.stderr = os.fdopen(os.dup(2), "w")  # for tracebacks
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)


def _read_memory() -> tuple[int, int]:
    """Return the address space of this process and its resident memory without that of files, in bytes."""
    mapped, resident, shared = map(int, Path("/proc/self/statm").read_text().split()[:3])
    return mapped * resource.getpagesize(), (resident - shared) * resource.getpagesize()


def _work(connection: socket.socket) -> None:
    """Measure and decode files until the connection is closed."""
    most = _read_memory()[1] + KEPT_BYTES
    calls, too_large = 0, False
    while True:
        try:
            message, data, descriptors = decoder_wire.receive(connection)
        except EOFError:
            return
        calls += 1
        size = _call(connection, message, data, descriptors, retire=too_large or calls >= MAX_CALLS)
        del data
        if size > _TRIM_BYTES:
            _libc.malloc_trim(0)
            too_large = _read_memory()[1] > most


def _call(
    connection: socket.socket, message: dict[str, Any], data: bytes, descriptors: list[int], *, retire: bool
) -> int:
    """Do what `message` says and send the answer; return about how many bytes that took."""
    segment = Segment()
    sent: list[int] = []
    kept = descriptors.pop() if message["kept"] else None
    try:
        if descriptors:
            data = _read_file(descriptors[0], message["size"])
        function = {"measure": codec.measure, "decode": codec.decode}[message["do"]]
        answer = {"value": decoder_wire.flatten(function(data, max_pixels=message["max_pixels"]), segment)}
        if segment.size and (written := segment.write(kept)) != kept:
            sent = [written]
    except Exception as error:
        answer = _describe(error)
    decoder_wire.send(connection, answer | {"retire": retire}, descriptors=sent)
    for descriptor in [*sent, *descriptors, *([] if kept is None else [kept])]:
        os.close(descriptor)
    return len(data) + segment.size


def _read_file(descriptor: int, size: int) -> bytes:
    """Read a file from its beginning. The service uses the same position in the file: it stays."""
    data = os.pread(descriptor, size, 0)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), len(data))):
        data += more
    return data


def _describe(error: Exception) -> dict[str, Any]:
    """Return the answer for an error of the codec."""
    if _is_out_of_memory(error):
        text = "Decoding the picture takes more memory than one picture may use. Scale it down, or split it into parts."
        error = TooManyPixels(text, field="image")
    if isinstance(error, ServiceError):
        return {"error": decoder_wire.flatten_error(error)}
    return {"bug": "".join(traceback.format_exception(error))[-4000:]}


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or one that it was raised from, says that memory ran out, as each library puts it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or "memory" in str(found).lower():
            return True
        found = found.__cause__
    return False


if __name__ == "__main__":
    main()
