"""Messages between the service and its decoder processes: JSON over a socket, file descriptors, and shared memory.

Nothing is unpickled: a process that parses files of strangers may be taken over by one. The service builds only values
of known classes from a message, and maps memory only after it is sealed against shrinking.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import errors
from app.errors import ServiceError
from app.imaging import picture

_HEAD = struct.Struct(">IQ")  # lengths of the JSON and of the bytes after it
_MAX_JSON = 1 << 20
_MAX_BYTES = 1 << 33
_ANCILLARY_SIZE = 64  # bytes: a few descriptors
_ALIGNMENT = 64
_CLASSES: dict[str, Callable[..., Any]] = {
    name: one for name, one in vars(picture).items() if isinstance(one, type) and dataclasses.is_dataclass(one)
}
_DTYPES = ("|u1", "<u2")


class ProtocolError(Exception):
    """A message that no decoder process sends."""


def send(
    connection: socket.socket, message: Mapping[str, Any], data: bytes = b"", descriptors: Sequence[int] = ()
) -> None:
    """Send a message, with bytes and file descriptors. Raises OSError if the other side is gone, TimeoutError."""
    text = json.dumps(message, default=str).encode()
    head = _HEAD.pack(len(text), len(data)) + text
    sent = socket.send_fds(connection, [head], descriptors)
    for rest in (head[sent:], data):
        if rest:  # sending nothing fails, too, where the other side has got the message and gone
            connection.sendall(rest)


def receive(connection: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], bytes, list[int]]:
    """Return (message, bytes, file descriptors). `deadline` is a time of `time.monotonic`.

    Raises EOFError if the other side is gone, TimeoutError after the deadline, ProtocolError.
    """
    descriptors: list[int] = []
    try:
        head = _receive_exactly(connection, _HEAD.size, deadline, descriptors)
        text_size, data_size = _HEAD.unpack(head)
        if text_size > _MAX_JSON or data_size > _MAX_BYTES:
            raise ProtocolError("too long")
        message = json.loads(_receive_exactly(connection, text_size, deadline, descriptors))
        if not isinstance(message, dict):
            raise ProtocolError("not an object")
        return message, bytes(_receive_exactly(connection, data_size, deadline, descriptors)), descriptors
    except BaseException as error:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, ValueError):
            raise ProtocolError("not JSON") from error
        raise


def _receive_exactly(connection: socket.socket, size: int, deadline: float | None, descriptors: list[int]) -> bytearray:
    buffer = bytearray()
    while len(buffer) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        wanted = min(size - len(buffer), 1 << 20)
        try:
            data, ancillary, _, _ = connection.recvmsg(wanted, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError as error:
            raise EOFError from error
        for level, kind, packed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors += memoryview(packed).cast("i").tolist()
        if not data:
            raise EOFError
        buffer += data
    return buffer


class Segment:
    """Memory that a decoder process fills and hands over by its descriptor: arrays and bytes, one after the other."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[tuple[int, memoryview]] = []

    def add(self, data: bytes | NDArray[Any]) -> int:
        """Append `data`, contiguous; return the offset of its first byte."""
        view = memoryview(data).cast("B") if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
        offset = self.size
        self._parts.append((offset, view))
        self.size += -(-len(view) // _ALIGNMENT) * _ALIGNMENT
        return offset

    def write(self, kept: int | None = None) -> int:
        """Return a file descriptor of the memory: `kept`, that of an older segment, if it is large enough.

        Raises OSError if there is too little memory.
        """
        if kept is not None and self.size <= os.fstat(kept).st_size:
            self._fill(kept)
            return kept
        descriptor = os.memfd_create("decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, self.size)
            self._fill(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _fill(self, descriptor: int) -> None:
        for offset, view in self._parts:  # written, not mapped: page by page takes twice as long
            done = 0
            while done < len(view):
                done += os.pwrite(descriptor, view[done:], offset + done)


def flatten(value: object, segment: Segment) -> Any:
    """Return `value` as JSON; arrays and bytes in it go to `segment`. Raises TypeError for values of other types."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return {"array": segment.add(array), "dtype": array.dtype.str, "shape": array.shape}
    if isinstance(value, bytes):
        return {"bytes": segment.add(value), "length": len(value)}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [flatten(one, segment) for one in value]}
    if isinstance(value, Mapping):
        return {"pairs": [[flatten(key, segment), flatten(one, segment)] for key, one in value.items()]}
    if type(value).__name__ in _CLASSES:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
        return {"class": type(value).__name__, "fields": {name: flatten(one, segment) for name, one in fields.items()}}
    raise TypeError(f"a decoder process cannot send a {type(value).__name__}")


def rebuild(described: Any, memory: NDArray[Any]) -> Any:
    """Return the value that `flatten` described, with `memory`, uint8, as the bytes of its segment. Arrays are views of
    it. Raises ProtocolError."""
    try:
        return _rebuild(described, memory)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError("not a value") from error


def _rebuild(described: Any, memory: NDArray[Any]) -> Any:
    if not isinstance(described, dict):
        return described
    if "array" in described:
        return _rebuild_array(described["array"], described["dtype"], tuple(described["shape"]), memory)
    if "bytes" in described:
        return memory[described["bytes"] : described["bytes"] + described["length"]].tobytes()
    if "tuple" in described:
        return tuple(_rebuild(one, memory) for one in described["tuple"])
    if "list" in described:
        return [_rebuild(one, memory) for one in described["list"]]
    if "pairs" in described:
        return {_rebuild(key, memory): _rebuild(one, memory) for key, one in described["pairs"]}
    fields = {name: _rebuild(one, memory) for name, one in described["fields"].items()}
    return _CLASSES[described["class"]](**fields)


def _rebuild_array(offset: int, dtype: str, shape: tuple[int, ...], memory: NDArray[Any]) -> NDArray[Any]:
    # NumPy accepts some negative numbers, and reads what lies before the memory.
    if dtype not in _DTYPES or min(offset, *shape) < 0:
        raise ProtocolError("not an array of samples")
    return np.ndarray(shape, np.dtype(dtype), memory, offset)


def flatten_error(error: ServiceError) -> dict[str, Any]:
    """Return the class and all fields of an error as JSON."""
    return {"class": type(error).__name__, "fields": dict(vars(error))}


def rebuild_error(described: Any) -> ServiceError:
    """Return the error that `flatten_error` described. Raises ProtocolError."""
    if not isinstance(described, dict):
        raise ProtocolError("not an error")
    kind, fields = getattr(errors, str(described.get("class")), None), described.get("fields")
    if not (isinstance(kind, type) and issubclass(kind, ServiceError) and isinstance(fields, dict)):
        raise ProtocolError("not an error")
    error = kind(str(fields.get("detail")))
    vars(error).update(fields)
    return error
