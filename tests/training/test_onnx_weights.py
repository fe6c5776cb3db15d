"""Weights are read from ONNX files, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training import onnx_weights


def field(number: int, value: bytes | int) -> bytes:
    """Return a field of a protocol buffer: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    head = bytes([value & 127 | (128 if value > 127 else 0)])
    return head + (varint(value >> 7) if value > 127 else b"")


def tensor(name: str, values: np.ndarray, *, packed: bool) -> bytes:
    sizes = [varint(size) for size in values.shape]
    shape = field(1, b"".join(sizes)) if packed else b"".join(field(1, size) for size in values.shape)
    return shape + field(2, 1) + field(8, name.encode()) + field(9, values.astype("<f4").tobytes())


@pytest.mark.parametrize("packed", [False, True])
def test_float_tensors_are_read_by_name(tmp_path: Path, packed: bool) -> None:
    values = np.arange(600, dtype=np.float32).reshape(2, 300)
    whole = field(2, 1) + field(8, b"steps") + field(7, bytes(8))  # of another type
    graph = b"".join(field(5, one) for one in (tensor("a", values, packed=packed), whole))
    file = tmp_path / "a.onnx"
    file.write_bytes(field(1, 8) + field(2, b"maker") + field(7, graph))
    found = onnx_weights.read(file)
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], values)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 is a zip", b"\x3a\xff\xff\xff\x7f", b"\xff" * 40, bytes(30)])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"ONNX|cut short"):
        onnx_weights.read(file)
