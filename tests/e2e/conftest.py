from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.api.service import Service, serving
from tests.e2e import browser as chromium
from tests.e2e.browser import Browser
from tests.e2e.page import Page


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """A browser for all tests of a file."""
    if not (chromium.CHROMIUM and chromium.DRIVER):
        pytest.skip("no chromium and chromedriver (apt: chromium-driver)")
    with chromium.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture
def page(window: Browser, service: Service, tmp_path: Path) -> Iterator[Page]:
    """The page, newly opened. It must have asked no other server for anything, and the console must be empty."""
    window.emulate(1280, 900)
    page = Page(window, service, tmp_path)
    yield page
    assert page.strays == []
    assert window.complaints() == []
