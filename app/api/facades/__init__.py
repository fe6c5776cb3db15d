"""Interfaces of other services, for clients that cannot speak this one's. Each translates to the one pipeline."""

from __future__ import annotations

from collections.abc import Mapping

from app.api.facades import openai
from app.api.facades.base import Facade

FACADES: Mapping[str, Facade] = {"openai": openai.FACADE}
"""The facades by name, as in `RESTORE_FACADES`."""
