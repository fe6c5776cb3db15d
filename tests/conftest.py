"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import pytest
import structlog

from tests.offline import offline
from tests.shelf import tiny_shelf

__all__ = ["offline", "quiet", "tiny_shelf"]


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Send the service's log lines through `logging`, where pytest keeps them and shows those of a failed test."""
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())
