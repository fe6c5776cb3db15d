"""Folders and files that only the user of this process may read (0700 and 0600), whatever the umask is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any

import structlog

log = structlog.get_logger(__name__)

_FOLDER, _FILE = 0o700, 0o600
_OTHERS = 0o077


def make_private_folder(folder: Path) -> None:
    """Make `folder`, or take the rights of other users from an existing one; what cannot be taken is logged.

    Raises OSError if it cannot be made.
    """
    try:
        folder.mkdir(_FOLDER, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    make_private(folder)


def open_private(path: Path, mode: str) -> IO[Any]:
    """Open a file for writing, as `open` does, that only this user may read from the moment it exists."""
    return open(path, mode, opener=_open)  # Path.open has no `opener`


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, _FILE)
    if os.name == "posix":
        os.fchmod(descriptor, _FILE)  # the file may be older, and the umask may take away too much
    return descriptor


def make_private(path: Path) -> None:
    """Take the rights of other users from a file or folder, where it is this user's own; log where it is not.

    Does nothing if it does not exist, and on systems without such rights.
    """
    if os.name != "posix":
        return
    try:
        found = path.stat()
        mode = stat.S_IMODE(found.st_mode)
        wanted = _FOLDER if stat.S_ISDIR(found.st_mode) else _FILE
        if found.st_uid != os.geteuid():
            _warn(path, mode, f"it belongs to user {found.st_uid}")
        elif mode & stat.S_ISVTX and any(path.iterdir()):  # such as /tmp, which others need; not a new mount
            _warn(path, mode, "it is a folder for all users")
        elif mode & 0o777 != wanted:
            path.chmod(wanted)
    except FileNotFoundError:
        return
    except OSError as error:
        _warn(path, None, error.strerror or str(error))


def _warn(path: Path, mode: int | None, reason: str) -> None:
    if mode is None or mode & _OTHERS:
        log.warning("files of jobs may be read by others", path=str(path), mode=mode and f"{mode:04o}", reason=reason)
