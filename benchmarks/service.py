"""Starts the service in a separate process, as a user would, and stops it again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 600.0


@contextmanager
def running(module: str = "app", *arguments: str, **settings: str) -> Iterator[tuple[str, int]]:
    """Yield (URL, process id) of a service that is ready and idle. `settings` are variables without `RESTORE_`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    data = tempfile.TemporaryDirectory()
    given = {"RESTORE_DATA_DIR": data.name} | {f"RESTORE_{name.upper()}": value for name, value in settings.items()}
    environment = os.environ | {"RESTORE_HOST": "127.0.0.1", "RESTORE_PORT": str(port)} | given
    url = f"http://127.0.0.1:{port}"
    with data, tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(url, process)
            _wait_until_idle(url, settings.get("api_keys", "").partition(",")[0])
            yield url, process.pid
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-4000:])
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def metrics(client: httpx.Client) -> dict[str, float]:
    """Return the values of `/metrics` by name, each the sum over its labels."""
    found: defaultdict[str, float] = defaultdict(float)
    for name, value in re.findall(r"^(\w+)(?:{.*})? (\S+)$", client.get("/metrics").text, re.MULTILINE):
        found[name] += float(value)
    return dict(found)


def _wait_until_idle(url: str, key: str) -> None:
    """Wait until the warm-up is over, that is, until the device was idle for two seconds."""
    with httpx.Client(base_url=url, timeout=60, headers={"X-API-Key": key}) as client:
        busy, idle = -1.0, 0
        while idle < 2:
            time.sleep(1.0)
            now = metrics(client).get("restore_device_busy_seconds_total", 0.0)
            idle = idle + 1 if now == busy else 0
            busy = now


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        try:
            if httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the service was not ready in time")
