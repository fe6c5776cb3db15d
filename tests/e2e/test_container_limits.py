"""The limits of the compose file, with a picture of 64 megapixels in 16 bit: answered or refused, never killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.e2e.test_faults import denoise, problem
from tests.e2e.test_process import Process, started

pytestmark = [pytest.mark.tf, pytest.mark.slow]

SIDE = 8000
CGROUP = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def large() -> bytes:
    """A PNG of 64 megapixels, RGB of 16 bit: 384 MB of pixels."""
    tile = np.random.default_rng(0).integers(0, 65536, (80, 80, 3), np.uint16)
    pixels = np.tile(tile, (SIDE // 80, SIDE // 80, 1))
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


@contextmanager
def group(mebibytes: int) -> Iterator[Path]:
    """A control group that limits memory, as a container has one."""
    folder = CGROUP / f"restore-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(mebibytes << 20))
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    try:
        yield folder
    finally:
        folder.rmdir()


@contextmanager
def contained(root: Path, folder: Path, mebibytes: int, **settings: str) -> Iterator[tuple[Process, Path]]:
    """Start the service with that much memory, 64 MB of /dev/shm, and nothing to write to but a tmpfs."""
    folder.mkdir()
    mounting = (
        f"mount -t tmpfs tmpfs {folder} && mkdir {folder}/tmp && mount -t tmpfs -o size=64m tmpfs /dev/shm"
        " && mount -o remount,bind,ro /"
    )
    away = ["unshare", "--mount", "sh", "-c"]
    tried = shutil.which("unshare") and subprocess.run([*away, mounting], capture_output=True, check=False)
    if not tried or tried.returncode:
        pytest.skip("nothing can be mounted here")
    with group(mebibytes) as limits:
        joining = f"echo $$ > {limits}/cgroup.procs"
        command = [*away, f'{joining} && {mounting} && exec "$@"', "sh", sys.executable, "-B", "-m", "app"]
        told = {"TMPDIR": str(folder / "tmp"), "RESTORE_DATA_DIR": str(folder / "data"), **settings}
        with started(root, command=command, **told) as running:
            running.client.timeout = 3600
            running.until("warm after")
            yield running, limits
            code, errors = running.end()
            assert code == 0, errors


def test_a_large_picture_is_answered(tiny_repository: Path, tmp_path: Path, large: bytes) -> None:
    limits = {"RESTORE_REQUEST_TIMEOUT_S": "3600", "RESTORE_DECODER_TIMEOUT_S": "600"}
    with contained(tiny_repository, tmp_path / "disk", 8192, **limits) as (running, group):
        answer = denoise(running, "identity", large)
        assert answer.status_code == 200, answer.text
        assert int.from_bytes(answer.content[16:20], "big") == SIDE
        peak = int((group / "memory.max_usage_in_bytes").read_text()) >> 20
        print(f"peak of all processes and the upload: {peak} MiB of 8192")
        assert denoise(running, "identity").status_code == 200


def test_a_large_picture_is_refused_where_memory_runs_out(tiny_repository: Path, tmp_path: Path, large: bytes) -> None:
    """The system ends the decoder, and not the service, which has no memory for such a picture either."""
    with contained(tiny_repository, tmp_path / "disk", 8192, RESTORE_DECODER_TIMEOUT_S="600") as (running, group):
        used = re.findall(r"^total_rss (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        room = 500 << 20  # the pixels take 366 MiB, and are in memory twice while they are decoded
        (group / "memory.limit_in_bytes").write_text(str(int(used[0]) + len(large) + room))
        answer = denoise(running, "identity", large)
        assert (answer.status_code, problem(answer)) == (413, "too-many-pixels")
        assert denoise(running, "identity").status_code == 200


def test_a_large_picture_is_refused_where_a_decoder_may_not_take_so_much(
    tiny_repository: Path, tmp_path: Path, large: bytes
) -> None:
    with contained(tiny_repository, tmp_path / "disk", 8192, RESTORE_DECODER_MB="512") as (running, _):
        answer = denoise(running, "identity", large)
        assert (answer.status_code, problem(answer)) == (413, "too-many-pixels")
        assert denoise(running, "identity").status_code == 200
