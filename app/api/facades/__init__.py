"""Interfaces of other services, for clients that cannot speak this one's. Each translates to the one pipeline."""

from __future__ import annotations

from collections.abc import Mapping

from app.api.facades import a1111, iopaint, openai, rembg, removebg
from app.api.facades.base import Facade

FACADES: Mapping[str, Facade] = {
    "openai": openai.FACADE,
    "rembg": rembg.FACADE,
    "iopaint": iopaint.FACADE,
    "removebg": removebg.FACADE,
    "a1111": a1111.FACADE,
}
"""The facades by name, as in `RESTORE_FACADES`."""
