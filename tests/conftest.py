"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import pytest
import structlog

from tests.model_repository import tiny_repository
from tests.offline import offline

__all__ = ["offline", "quiet", "tiny_repository"]


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Send the service's log lines through `logging`, where pytest keeps them and shows those of a failed test."""
    # Plain, as the service's own: a traceback that shows every array takes seconds, in which the device does nothing.
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    processors: list[structlog.types.Processor] = [structlog.processors.add_log_level, renderer]
    structlog.configure(processors=processors, logger_factory=structlog.stdlib.LoggerFactory())
