"""A headless Chromium, driven through chromedriver's own HTTP interface (W3C WebDriver).

Needs nothing but Python, because `newcomer.sh` uses it without the environment of the tests.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1300,2400"
).split()
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


@dataclass(frozen=True)
class Box:
    """Where an element lies in the window, in CSS pixels."""

    left: float
    top: float
    width: float
    height: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return a point of the box; (0, 0) is its top left corner, (1, 1) its bottom right one."""
        return self.left + x * self.width, self.top + y * self.height


class Driver:
    """Sends commands to chromedriver, at first to itself, then to its session."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def send(self, method: str, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return what chromedriver returns. Raises AssertionError with its message, or URLError if it is not there."""
        data = None if arguments is None else json.dumps(arguments).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{command}", data, headers, method=method)
        try:
            with self._opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise AssertionError(error.read().decode()[:500]) from None


class Browser:
    """One window."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

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

    def text(self, selector: str) -> str:
        """Return the text of the first element that the CSS selector finds, as it is shown."""
        return str(self.run(f"return document.querySelector({json.dumps(selector)}).innerText"))

    def box(self, selector: str) -> Box:
        """Return where the first element that the CSS selector finds lies in the window."""
        script = (
            f"const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]"
        )
        return Box(*self.run(script))

    def drag(self, *points: tuple[float, float], button: int = 0, kind: str = "mouse") -> None:
        """Press a button of a mouse, pen or finger (`touch`) at the first point, move to the others, and release it."""
        moves = [_move(*point) for point in points]
        down, up = {"type": "pointerDown", "button": button}, {"type": "pointerUp", "button": button}
        self._act(_pointer(kind, kind, [moves[0], down, *moves[1:], up]))

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a point."""
        self._act(_pointer("mouse", "mouse", [_move(x, y)]))

    def pinch(self, x: float, y: float, *distances: float) -> None:
        """Put two fingers beside a point, at the first distance from it, move them to the others, and lift them."""
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        fingers = []
        for name, side in (("left", -1), ("right", 1)):
            moves = [_move(x + side * distance, y) for distance in distances]
            fingers.append(_pointer(name, "touch", [moves[0], down, *moves[1:], up]))
        self._act(*fingers)

    def wheel(self, x: float, y: float, delta: int) -> None:
        """Turn the wheel of the mouse over a point."""
        turn = {"type": "scroll", "x": int(x), "y": int(y), "deltaX": 0, "deltaY": delta}
        self._act({"type": "wheel", "id": "wheel", "actions": [turn]})

    def press(self, *keys: str, held: str = "") -> None:
        """Press keys one after another, in the element that has the focus, while the keys `held` are held."""
        actions: list[dict[str, Any]] = [{"type": "keyDown", "value": key} for key in held]
        for key in keys:
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        actions += [{"type": "keyUp", "value": key} for key in held]
        self._act({"type": "key", "id": "keyboard", "actions": actions})

    def hold(self, key: str, *points: tuple[float, float]) -> None:
        """Drag the mouse along the points while a key is held."""
        self._call(
            "actions", actions=[{"type": "key", "id": "keyboard", "actions": [{"type": "keyDown", "value": key}]}]
        )
        self.drag(*points)  # releases the key at its end

    def emulate(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the window a size, and its pages a color scheme."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Run a command of the DevTools protocol."""
        return self._call("goog/cdp/execute", cmd=command, params=parameters)

    def complaints(self) -> list[str]:
        """Return the errors and warnings in the console since this was last called."""
        entries = self._call("se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self) -> bytes:
        """Return the window as a PNG."""
        return base64.b64decode(self._driver.send("GET", "/screenshot"))

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

    def _act(self, *sources: dict[str, Any]) -> None:
        self._call("actions", actions=list(sources))
        self._driver.send("DELETE", "/actions")

    def _call(self, command: str, **arguments: Any) -> Any:
        return self._driver.send("POST", f"/{command}", arguments)


def _move(x: float, y: float) -> dict[str, Any]:
    return {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 20}


def _pointer(name: str, kind: str, actions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "pointer", "id": name, "parameters": {"pointerType": kind}, "actions": actions}


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
            control = Driver(port)
            flags = [*_FLAGS, f"--user-data-dir={Path(profile) / 'empty'}"]
            control.address += f"/session/{_session(control, flags)}"
            try:
                yield Browser(control)
            finally:
                control.send("DELETE", "")
        finally:
            driver.terminate()
            driver.wait(20)


def _session(driver: Driver, flags: list[str]) -> str:
    options = {
        "goog:chromeOptions": {"args": flags, "binary": CHROMIUM},
        "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
    }
    end = time.monotonic() + 30
    while True:
        try:
            return str(driver.send("POST", "/session", {"capabilities": {"alwaysMatch": options}})["sessionId"])
        except URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
