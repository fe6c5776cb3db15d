"""A disk that is really full: a small file system in memory, mounted for one test."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes at `folder`. Skips the test where this process may not mount."""
    if sys.platform != "linux":
        pytest.skip("a tmpfs needs Linux")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Write to `file` until not one more page fits on the disk, also of what the service frees meanwhile."""
    limit = time.monotonic() + 10
    with file.open("ab", buffering=0) as open_file:
        while shutil.disk_usage(file.parent).free and time.monotonic() < limit:
            with suppress(OSError):
                while open_file.write(b"x" * 4096):
                    pass
    assert shutil.disk_usage(file.parent).free == 0
