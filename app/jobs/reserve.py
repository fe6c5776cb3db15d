"""Disk space kept for a full disk: a file that is given up so that the table of jobs can be written nevertheless.

SQLite needs room even to delete a row. Without it, a full disk would stay full: no job could expire or be deleted.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import structlog

from app.errors import StorageFull
from app.private_files import open_private

log = structlog.get_logger(__name__)

WAL_PAGES = 32
"""Pages of 4 KiB after which SQLite moves its write-ahead log into the table, so that the log stays small."""
RESERVE_BYTES = 512 * 1024
"""Three times the write-ahead log, and room for the table to grow."""
_MARGIN_BYTES = 128 * 1024  # free besides, or the next write would need the reserve again

P = ParamSpec("P")
R = TypeVar("R")


class Reserve:
    """The file `folder`/reserve. Processes that share the folder share it, too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "reserve"

    def release(self) -> bool:
        """Give the space up. Return False if there is none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        log.warning("disk full, reserve released", folder=str(self._folder))
        return True

    def restore(self) -> bool:
        """Take the space again if there is room. Return whether there is a reserve now."""
        draft = self._path.with_suffix(".new")
        try:
            if self._path.exists() and self._path.stat().st_size >= RESERVE_BYTES:
                return True
            if shutil.disk_usage(self._folder).free < RESERVE_BYTES + _MARGIN_BYTES:
                return False
            with open_private(draft, "wb") as file:
                file.write(os.urandom(RESERVE_BYTES))  # zeros take no space on some file systems
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            return False
        return True


class HasReserve(Protocol):
    """An object whose methods may use a reserve."""

    reserve: Reserve


S = TypeVar("S", bound=HasReserve)


def uses_reserve(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Repeat a transaction that failed for lack of space with the space of the reserve."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except (StorageFull, sqlite3.OperationalError) as error:
            if not _may_be_full(error) or not self.reserve.release():
                raise
        return method(self, *args, **kwargs)

    return call


def _may_be_full(error: StorageFull | sqlite3.OperationalError) -> bool:
    """Tell whether an error may come from a full disk. To SQLite an exceeded quota is an error of input and output, and
    a file that finds no room is one that cannot be opened."""
    if isinstance(error, StorageFull):
        return True
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
