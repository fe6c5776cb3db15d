"""Faults of a whole process: SIGTERM with a full queue, broken files in the model repository, a full disk."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.app.api.service import file, gradient, opened, png
from tests.e2e.test_crash import JOBS, PUBLISHED, noisy
from tests.e2e.test_process import Process, started

pytestmark = pytest.mark.tf


def problem(answer: httpx.Response) -> str:
    """Return the slug of a problem."""
    return str(answer.json()["type"]).removeprefix("/problems/")


def denoise(running: Process, model: str, data: bytes | None = None, **headers: str) -> httpx.Response:
    files = {"image": png() if data is None else data}
    return running.client.post("/denoise", files=files, data={"model": model}, headers=headers)


@pytest.mark.slow
def test_sigterm_with_a_full_queue_answers_everybody() -> None:
    callers = 60
    with (
        started(PUBLISHED, RESTORE_PRELOAD="denoise/photo", RESTORE_STOP_TIMEOUT_S="2") as running,
        ThreadPoolExecutor(callers) as pool,
    ):
        running.until("warm after")
        answers = [pool.submit(denoise, running, "photo", noisy(number % JOBS)) for number in range(callers)]
        while not any(answer.done() for answer in answers):
            time.sleep(0.01)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with suppress(httpx.ConnectError):  # nobody listens: as good a no
            assert httpx.get(f"{running.client.base_url}/readyz", timeout=20).status_code == 503
        outcomes = []
        for answer in answers:
            told = answer.result(60)
            outcomes.append("answered" if told.status_code == 200 else problem(told))
        assert running.process.wait(30) == 0
        assert set(outcomes) == {"answered", "shutting-down"}
        assert "Traceback" not in running.errors()


def spoil(path: Path) -> None:
    """Change bytes in the middle of a file, as a failing disk does."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    path.write_bytes(data)


def test_a_file_that_breaks_takes_its_own_model_and_no_other(tiny_repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "shelf"
    shutil.copytree(tiny_repository, root)
    weights = "variables/variables.data-00000-of-00001"
    spoil(root / "superres/nearest/1/saved_model.pb")
    with started(root) as running:
        running.until("warm after")
        broken = running.client.post("/superres", files={"image": png()}, data={"scale": "2"})
        assert (broken.status_code, problem(broken)) == (503, "model-unavailable")
        assert running.client.get("/readyz").json()["tasks"]["superres"] == "ModelUnavailable"
        before = denoise(running, "identity")
        spoil(root / "denoise/identity/1/saved_model.pb")  # it is in memory
        spoil(root / "denoise/blur/1" / weights)  # it is not
        assert problem(denoise(running, "blur")) == "model-unavailable"
        after = denoise(running, "identity")
        assert after.status_code == 200
        assert after.content == before.content
        code, errors = running.end()
        assert code == 0, errors
        assert "Traceback" not in errors


@contextmanager
def small_disk(root: Path, folder: Path, mebibytes: int, **settings: str) -> Iterator[tuple[Process, Path]]:
    """Start the service where uploads and jobs share a disk of so many MiB, which only it and what it starts can see.

    Gives the service and a file: what is in it is written to that disk while `full` is there.
    """
    folder.mkdir()
    mounting = f"mount -t tmpfs -o size={mebibytes}m tmpfs {folder}"
    away = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    tried = shutil.which("unshare") and subprocess.run([*away, mounting], capture_output=True, check=False)
    if not tried or tried.returncode:
        pytest.skip("nothing can be mounted here")
    command = [*away, f'{mounting} && mkdir {folder}/tmp && exec "$@"', "sh", sys.executable, "-m", "app"]
    told = {"TMPDIR": str(folder / "tmp"), "RESTORE_DATA_DIR": str(folder / "data"), **settings}
    with started(root, command=command, **told) as running:
        running.until("warm after")
        yield running, Path(f"/proc/{running.process.pid}/root") / folder.relative_to("/")


def fill(folder: Path) -> Path:
    """Take all the room there is on the disk of `folder`, and return what takes it."""
    taken = folder / "taken"
    with taken.open("wb", buffering=0) as target, suppress(OSError):
        while True:
            target.write(bytes(2**12))
    return taken


def test_a_full_disk_is_told_and_passes(tiny_repository: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    large = file(noise)  # more than is kept in memory while it arrives
    with small_disk(tiny_repository, tmp_path / "disk", 16) as (running, disk):
        assert denoise(running, "identity", large).status_code == 200
        first = denoise(running, "identity", large, Prefer="respond-async")
        assert first.status_code == 202
        while running.client.get(first.headers["location"]).json()["state"] != "succeeded":
            time.sleep(0.05)
        taken = fill(disk)
        for _ in range(3):
            told = denoise(running, "identity", large)
            assert (told.status_code, problem(told)) == (503, "overloaded")
            told = denoise(running, "identity", Prefer="respond-async")  # small: it arrives, and cannot be kept
            assert (told.status_code, problem(told)) == (507, "storage-full")
            np.testing.assert_array_equal(opened(denoise(running, "identity").content), gradient())
            assert running.client.get(f"{first.headers['location']}/result").status_code == 200
        taken.unlink()
        assert denoise(running, "identity", large).status_code == 200
        again = denoise(running, "identity", large, Prefer="wait=30")
        assert (again.status_code, again.headers["preference-applied"]) == (200, "wait=30")
        np.testing.assert_array_equal(opened(again.content), noise)
        assert not list((disk / "tmp").iterdir())
        code, errors = running.end()
        assert code == 0, errors
