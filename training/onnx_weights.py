"""The weights in an ONNX file, read without the `onnx` package: only the few fields that hold them.

The file is a protocol buffer (https://protobuf.dev/programming-guides/encoding); the numbers of its fields are those
of onnx.proto3: ModelProto.graph, GraphProto.initializer, and of a tensor its dimensions, type, name and raw data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

GRAPH, INITIALIZER = 7, 5
DIMENSIONS, TYPE, NAME, RAW = 1, 2, 8, 9
FLOAT = 1


def read(file: Path) -> dict[str, np.ndarray]:
    """Return the float32 initializers of `file` by name. Raises ValueError where it is no such file."""
    found: dict[str, np.ndarray] = {}
    for graph in _of(file.read_bytes(), GRAPH):
        for tensor in _of(graph, INITIALIZER):
            name, values = _tensor(tensor)
            if values is not None:
                found[name] = values
    if not found:
        raise ValueError("it is no ONNX file, or has no weights in float32")
    return found


def _tensor(data: bytes) -> tuple[str, np.ndarray | None]:
    """Return name and values of a TensorProto; None where they are not float32 in `raw_data`."""
    dimensions: list[int] = []
    kind, name, raw = 0, "", b""
    for field, value in _fields(data):
        if isinstance(value, int):
            kind = value if field == TYPE else kind
            dimensions += [value] if field == DIMENSIONS else []
        elif field == DIMENSIONS:
            dimensions += _packed(value)
        elif field == NAME:
            name = value.decode()
        elif field == RAW:
            raw = value
    if kind != FLOAT or len(raw) != 4 * math.prod(dimensions):
        return name, None
    return name, np.frombuffer(raw, "<f4").reshape(dimensions)


def _of(data: bytes, wanted: int) -> Iterator[bytes]:
    return (value for field, value in _fields(data) if field == wanted and isinstance(value, bytes))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of each field of a message: an integer, or the bytes of anything longer."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("it is no ONNX file")
        if at + size > len(data):
            raise ValueError("it is cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _packed(data: bytes) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (number, where it ends): seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("it is cut short, or no ONNX file")
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
