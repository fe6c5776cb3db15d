from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.app.api.service import Service, serving


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service as it comes, for tests that leave it as it was."""
    with serving(max_upload_mb=4, max_pixels=1_000_000, max_output_pixels=1_000_000) as running:
        yield running
