"""The service as a process: start, ready, a picture, SIGTERM, and a second start."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.app.api.service import gradient, opened, png

ROOT = Path(__file__).parents[2]
SERVE = [sys.executable, "-m", "app"]

pytestmark = pytest.mark.tf


class Process:
    """A running `python -m app` and what it printed so far."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.printed: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._told: list[str] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("")

    def _listen(self) -> None:
        # Read all the while: a full pipe would hold the service up.
        assert self.process.stderr
        self._told.extend(self.process.stderr)

    def errors(self) -> str:
        """Return what stood on standard error, once the process has ended."""
        self._listener.join(10)
        return "".join(self._told)

    def until(self, word: str) -> None:
        """Wait until a line that holds `word` was printed."""
        while not any(word in line for line in self.printed):
            self.printed.append(self._lines.get(timeout=120))
            assert self.printed[-1], (self.printed, self.process.poll(), self.errors())

    def end(self) -> tuple[int, str]:
        """Send SIGTERM; return the exit code and what stood on standard error."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join(10)
        while not self._lines.empty():
            self.printed.append(self._lines.get())
        return code, self.errors()


@contextmanager
def started(root: Path, command: Sequence[str] = SERVE, **settings: str) -> Iterator[Process]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RESTORE_")}
    told = {"RESTORE_MODELS_DIR": str(root), "RESTORE_PORT": str(port)}
    with (
        tempfile.TemporaryDirectory() as data,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean | told | {"RESTORE_DATA_DIR": data} | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        running = Process(process, port)
        try:
            yield running
        finally:
            running.client.close()
            process.kill()
            process.wait(20)
            running._reader.join(10)
            running._listener.join(10)


def test_start_picture_sigterm_and_start_again(tiny_repository: Path) -> None:
    for _ in range(2):
        with started(tiny_repository, RESTORE_LOG_FORMAT="json") as running:
            running.until("warm after")
            ready = running.client.get("/readyz")
            assert ready.json() == {
                "status": "ready",
                "tasks": {"denoise": "ready", "superres": "ready", "segment": "ready"},
            }
            picture = {"image": png()}
            answer = running.client.post("/denoise", files=picture, data={"model": "identity"})
            np.testing.assert_array_equal(opened(answer.content), gradient())
            answer = running.client.post("/superres", files=picture, data={"scale": "3"})
            assert opened(answer.content).shape == (72, 120, 3)
            assert running.client.get("/models/denoise/identity").json()["device"]
            code, errors = running.end()
        assert code == 0, errors
        assert running.printed[-1] in ("", "stopped")
        text = "\n".join(running.printed)
        for step in ("starting TensorFlow …", "checking the models in", "serving on", "loading denoise/photo@1 …"):
            assert step in text
        events = [json.loads(line) for line in errors.splitlines()]
        assert all(event["logger"].partition(".")[0] in ("app", "restore") for event in events), errors
        requests = [event for event in events if event["event"] == "request"]
        [denoised] = [entry for entry in requests if entry["path"] == "/denoise"]
        assert denoised["request_id"]
        assert denoised["status"] == 200
        assert denoised["model"] == "denoise/identity@1"


@pytest.mark.slow
def test_a_request_under_way_is_finished_before_the_end(tiny_repository: Path) -> None:
    with started(tiny_repository) as running:
        running.until("warm after")
        answers: list[httpx.Response] = []
        whole = threading.Event()

        def slow_body() -> Iterator[bytes]:
            request = httpx.Request("POST", "http://a/", files={"image": png()})
            body = request.read()
            headers.update({"Content-Type": request.headers["content-type"]})
            yield body[:100]
            assert whole.wait(60)
            yield body[100:]

        headers: dict[str, str] = {}
        body = slow_body()
        first = next(body)

        def parts() -> Iterator[bytes]:
            yield first
            sent.set()
            yield from body

        sent = threading.Event()
        sender = threading.Thread(
            target=lambda: answers.append(running.client.post("/denoise", content=parts(), headers=headers))
        )
        sender.start()
        assert sent.wait(60)
        assert running.client.get("/livez").status_code == 200  # by now the other one has been seen, too
        running.process.send_signal(signal.SIGTERM)
        whole.set()
        sender.join(60)
        assert running.process.wait(60) == 0
        assert answers[0].status_code == 200


def test_a_port_in_use_is_one_line_before_any_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started(tmp_path, RESTORE_PORT=port) as running:
            assert running.process.wait(120) == 2
            [line] = running.errors().splitlines()
            assert f"127.0.0.1:{port} is already in use" in line
            assert " RESTORE_PORT=" in line
            assert " PORT=" in line  # of make
            assert running._lines.get(timeout=10) == ""  # the end of standard output: it did not start TensorFlow
