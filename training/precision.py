"""The numbers that training computes with: float32, or bfloat16 where the hardware is faster at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

PRECISIONS = ("float32", "bfloat16")
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
CPUINFO = Path("/proc/cpuinfo")


@contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Build networks that compute in `precision`, one of PRECISIONS; their variables are float32 in both."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def has_fast_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether bfloat16 may be faster here: on an accelerator, or a processor with instructions for it."""
    if any(not str(name).lower().startswith("cpu") for name in keras.distribution.list_devices()):
        return True
    try:
        return not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:  # not Linux
        return False
