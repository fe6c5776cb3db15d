"""Swagger UI as a person uses it: choose a file, press Execute, see the picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.api.service import Service, file, gradient, serving
from tests.e2e import browser as chromium
from tests.e2e.browser import Browser

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (chromium.CHROMIUM and chromium.DRIVER), reason="no chromium and chromedriver (apt: chromium-driver)"
    ),
]


@pytest.fixture
def window() -> Iterator[Browser]:
    with chromium.browser() as browser:
        yield browser


def shown(browser: Browser) -> Any:
    """Return the size of the picture in the answer, once it is loaded."""
    script = (
        "const image = document.querySelector('.responses-table.live-responses-table img');"
        "return image && image.complete && image.naturalWidth ? [image.naturalWidth, image.naturalHeight] : null"
    )
    return browser.until(lambda: browser.run(script), "the returned picture")


def execute(browser: Browser, service: Service, path: str, picture: Path) -> None:
    browser.open(f"http://127.0.0.1:{service.port}/docs")
    opblock = f"#operations-pictures-{path}"
    browser.click(browser.find(f"{opblock} .opblock-summary-control"))
    browser.type(browser.find(f"{opblock} input[type=file]"), str(picture))
    browser.click(browser.find(f"{opblock} button.execute"))


@pytest.mark.parametrize(("path", "scale"), [("denoise", 1), ("superres", 2)])
def test_a_picture_goes_in_and_is_shown(window: Browser, tmp_path: Path, path: str, scale: int) -> None:
    picture = tmp_path / "holiday.png"
    picture.write_bytes(file(gradient(48, 64)))
    with serving() as service:
        execute(window, service, path, picture)
        assert shown(window) == [64 * scale, 48 * scale]
        assert "x-applied" in window.run("return document.querySelector('.live-responses-table').innerText")
        (tmp_path / f"{path}-docs.png").write_bytes(window.screenshot())
        # chrome:// is the browser's own start page; data: and blob: are the page's own.
        asked = [url for url in window.requested() if url.startswith(("http:", "https:", "ws:", "wss:"))]
        assert len(asked) > 4
        assert [url for url in asked if not url.startswith(f"http://127.0.0.1:{service.port}/")] == []


def test_options_are_told_and_prefilled(window: Browser) -> None:
    with serving() as service:
        window.open(f"http://127.0.0.1:{service.port}/docs")
        window.click(window.find("#operations-pictures-denoise .opblock-summary-control"))
        window.find("input[type=file]")
        text = window.run("return document.querySelector('.opblock-section-request-body').innerText")
        for field in ("image", "model", "format", "quality", "lossless", "metadata", "strength", "preserve"):
            assert field in text
        assert "estimates it from the picture" in text


def test_api_keys_work(window: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "holiday.png"
    picture.write_bytes(file(gradient(48, 64)))
    with serving(api_keys=("open sesame",)) as service:
        execute(window, service, "denoise", picture)
        window.until(
            lambda: "unauthorized" in window.run("return document.body.innerText"), "the refusal without a key"
        )
        window.click(window.find("button.authorize"))
        window.type(window.find(".modal-ux input"), "open sesame")
        window.click(window.find(".modal-ux button.authorize"))
        window.click(window.find(".modal-ux button.btn-done"))
        window.click(window.find("#operations-pictures-denoise button.execute"))
        assert shown(window) == [64, 48]
