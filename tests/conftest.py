"""Fixtures that more than one room's tests use."""

from __future__ import annotations

from tests.offline import offline
from tests.shelf import tiny_shelf

__all__ = ["offline", "tiny_shelf"]
