"""A headless Chromium, driven through chromedriver's own HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1300,2400"
).split()
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def open(self, address: str) -> None:
        """Go to a page."""
        self._call("url", url=address)

    def find(self, selector: str, patience: float = 20.0) -> str:
        """Return the first element that the CSS selector finds, as soon as there is one."""
        return self.until(lambda: self.all(selector), selector, patience)[0]

    def all(self, selector: str) -> list[str]:
        """Return the elements that the CSS selector finds now."""
        found = self._call("elements", using="css selector", value=selector)
        return [element[_ELEMENT] for element in found]

    def click(self, element: str) -> None:
        """Click in the middle of an element."""
        self._call(f"element/{element}/click")

    def type(self, element: str, text: str) -> None:
        """Type into an element; a path, for a file picker."""
        self._call(f"element/{element}/value", text=text)

    def run(self, script: str) -> Any:
        """Return what a script in the page returns."""
        return self._call("execute/sync", script=script, args=[])

    def screenshot(self) -> bytes:
        """Return the window as a PNG."""
        answer = self._session.get("screenshot")
        return base64.b64decode(answer.raise_for_status().json()["value"])

    def requested(self) -> list[str]:
        """Return the addresses that the page asked for since this was last called."""
        events = [json.loads(entry["message"])["message"] for entry in self._call("se/log", type="performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def until(self, look: Any, what: str, patience: float = 20.0) -> Any:
        """Return what `look` returns as soon as that is something."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if seen := look():
                return seen
        raise AssertionError(f"waited in vain for {what}")

    def _call(self, command: str, **arguments: Any) -> Any:
        answer = self._session.post(command, json=arguments)
        assert answer.status_code == 200, answer.text[:500]
        return answer.json()["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser with an empty profile and end it afterwards."""
    assert CHROMIUM
    assert DRIVER
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        quiet = subprocess.DEVNULL
        driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=quiet, stderr=quiet)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                flags = [*_FLAGS, f"--user-data-dir={Path(profile) / 'empty'}"]
                session = f"/session/{_session(client, flags)}"
                client.base_url = httpx.URL(f"http://127.0.0.1:{port}{session}/")
                try:
                    yield Browser(client)
                finally:  # without the slash: only so does chromedriver know the command, and end the browser
                    ended = client.delete(f"http://127.0.0.1:{port}{session}")
                    assert ended.status_code == 200, ended.text
        finally:
            driver.terminate()
            driver.wait(20)


def _session(client: httpx.Client, flags: list[str]) -> str:
    options = {"goog:chromeOptions": {"args": flags, "binary": CHROMIUM}, "goog:loggingPrefs": {"performance": "ALL"}}
    end = time.monotonic() + 30
    while True:
        try:
            answer = client.post("/session", json={"capabilities": {"alwaysMatch": options}})
        except httpx.ConnectError:
            if time.monotonic() > end:
                raise
            continue
        return str(answer.raise_for_status().json()["value"]["sessionId"])
