"""A newcomer's first picture in the page: `python3 -m tests.e2e.newcomer_page URL PICTURE FOLDER`.

Opens the page, puts the picture in, cleans it up, and saves the result and a screenshot of each step in the folder.
Needs chromium and chromedriver, and no package.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.e2e.browser import Browser, browser


def main() -> None:
    url, picture, folder = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    began = time.monotonic()
    with browser() as window:
        window.emulate(1280, 800)
        window.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        window.open(url)
        window.find("#samples button:nth-of-type(4)")
        _keep(window, folder, "1-open", began)
        window.type(window.find("#file"), str(picture))
        window.find("body[data-mode=edit]")
        _keep(window, folder, "2-picture", began)
        window.click(window.find("#run"))
        window.find("body[data-mode=result]:has(#wait[hidden])", patience=120)
        _keep(window, folder, "3-result", began)
        window.click(window.find("#download"))
        window.until(lambda: list(folder.glob("*-denoise.png")), "the saved result")


def _keep(window: Browser, folder: Path, step: str, began: float) -> None:
    (folder / f"page-{step}.png").write_bytes(window.screenshot())
    print(f"page {step}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
