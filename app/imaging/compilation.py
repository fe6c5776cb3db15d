"""Compiles loops with numba (docs/decisions/0025-compile-the-exemplar-loops-with-numba.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile `function` at its first call, without the interpreter's lock; keep it on disk where that is possible."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)  # type: ignore[return-value]
    except RuntimeError:  # no folder can be written to: it is compiled at every start
        return njit(nogil=True, error_model="numpy")(function)  # type: ignore[return-value]
