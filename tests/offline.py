"""Tests run without network: whoever tries gets an error that says so, wherever the attempt is made."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        # A string is the path of a local socket.
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise RuntimeError(f"a test tried to reach {address[0]}: tests run without network")


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Refuse connections that leave the machine, for as long as tests run."""
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching:
            _refuse(event, arguments)

    # A hook cannot be taken away again, so it is told to look away.
    sys.addaudithook(hook)
    yield
    watching = False
