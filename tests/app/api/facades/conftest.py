"""The service with all facades, and with a key."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from app.api.facades import FACADES
from tests.app.api.service import Service, serving


@pytest.fixture(scope="session")
def facades() -> Iterator[Service]:
    """The service with all facades."""
    with serving(facades=tuple(FACADES), max_upload_mb=4, max_pixels=1_000_000, max_output_pixels=1_000_000) as running:
        yield running


@pytest.fixture(scope="session")
def keyed() -> Iterator[Service]:
    """The same with the key `right`, and small limits."""
    with serving(facades=tuple(FACADES), api_keys="right", max_pixels=10_000) as running:
        yield running


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of the scheme Basic."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
