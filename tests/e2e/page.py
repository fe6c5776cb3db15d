"""The page at `/`, driven as a person uses it, and pictures to put into it."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.app.api.service import Service, file, wait_until
from tests.e2e.browser import Box, Browser

KEYS = {"left": "\ue012", "right": "\ue014", "up": "\ue013", "down": "\ue015", "home": "\ue011", "enter": "\ue007"}
KEYS |= {"control": "\ue009", "shift": "\ue008"}


def photo(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """Return a picture (height, width, 3) of dark colors, in which no two corners are alike."""
    rows, columns = np.mgrid[:height, :width]
    down, right = rows * 60 // height, columns * 60 // width
    return np.stack([down + 10, right + 20, (down + right) // 4 + 5], axis=-1).astype(np.uint8)


def read(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of a picture file."""
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


class Page:
    """The page of a service in a browser's window. Files that it saves arrive in `folder`."""

    def __init__(self, browser: Browser, service: Service, folder: Path, path: str = "/") -> None:
        self.browser, self.service, self.folder = browser, service, folder
        self.path = path
        self.origin = f"http://127.0.0.1:{service.port}"
        browser.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.open()

    def open(self) -> None:
        """Open the page anew, and wait until it has its controls and samples."""
        self.browser.requested()
        self.browser.complaints()
        self.browser.open(f"{self.origin}{self.path}")
        self.browser.find("#samples button:nth-of-type(4)")

    def put(self, pixels: NDArray[np.uint8], name: str = "holiday.png") -> None:
        """Choose a picture as a file."""
        self.choose(file(pixels), name)
        self.browser.find("body[data-mode=edit]")

    def choose(self, data: bytes, name: str) -> None:
        """Choose a file."""
        path = self.folder / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        self.browser.type(self.browser.find("#file"), str(path))

    def task(self, name: str) -> None:
        """Choose a task, and wait for its controls."""
        self.browser.click(self.browser.find(f"#tasks label:has([value={name}])"))

    def run(self) -> None:
        """Press the button, and wait for the result."""
        self.press("#run")
        self.browser.find("body[data-mode=result]:has(#wait[hidden])")

    def press(self, selector: str) -> None:
        """Click an element."""
        self.browser.click(self.browser.find(selector))

    def save(self, selector: str) -> Path:
        """Press a button that saves a file, and return the file."""
        self.press(selector)
        wait_until(lambda: any(path.suffix != ".crdownload" for path in self.folder.glob("*.*")))
        path = next(self.folder.glob("*.*"))
        kept = self.folder / f"saved-{len(list(self.folder.iterdir()))}" / path.name
        kept.parent.mkdir()
        return path.rename(kept)

    def download(self) -> Path:
        """Save the result."""
        return self.save("#download")

    def mask(self) -> NDArray[np.bool_]:
        """Save the mask, and return which pixels are drawn on (height, width)."""
        return np.asarray(read(self.save("#mask-save"))[..., 0] > 0)

    @property
    def picture(self) -> Box:
        """Where the picture lies in the window while it is edited."""
        return self.browser.box("#edit img")

    def stroke(self, *points: tuple[float, float], kind: str = "mouse") -> None:
        """Draw along points of the picture; (1, 1) is its bottom right corner."""
        self.browser.drag(*(self.picture.at(*point) for point in points), kind=kind)

    def size(self, pixels: int) -> None:
        """Set the size of the brush."""
        self.set("#size", str(pixels))

    def set(self, selector: str, value: str) -> None:
        """Give a control a value, as a person does who moves it."""
        self.browser.run(
            f"const control = document.querySelector({json.dumps(selector)}); control.value = {json.dumps(value)};"
            "control.dispatchEvent(new Event('input', {bubbles: true}))"
        )

    def until_text(self, selector: str, part: str) -> str:
        """Return the text of an element once it contains `part`."""
        end = time.monotonic() + 20
        while part not in (text := self.browser.text(selector)):
            assert time.monotonic() < end, text
            time.sleep(0.05)
        return text

    @property
    def strays(self) -> list[str]:
        """What the page asked of other servers since it was opened."""
        asked = [url for url in self.browser.requested() if url.startswith(("http:", "https:", "ws:", "wss:"))]
        assert f"{self.origin}{self.path}page/main.js" in asked
        return [url for url in asked if not url.startswith(f"{self.origin}/")]
