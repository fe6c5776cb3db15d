"""Registries over a repository of fake models, for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from app.engine.loader import Model
from app.engine.registry import Registry
from tests.engines import Identity, Loader

Put = Callable[..., Path]


def registry(*folders: Path, **fakes: Model) -> Registry:
    return Registry(folders, Loader(fakes or {"photo": Identity(), "digits": Identity()}))


def poll_twice(found: Registry) -> list[tuple[str, Any]]:
    """Poll twice, as changed files must be the same at two polls; return (event, model or task) of each log line."""
    with capture_logs() as logs:
        found.poll()
        found.poll()
    return [(line["event"], line.get("model") or line.get("task")) for line in logs]


def rewrite_graph(folder: Path, data: bytes = b"graph") -> None:
    """Write the graph again, with another modification time."""
    file = folder / "saved_model.pb"
    later = file.stat().st_mtime + 2 if file.exists() else 0
    file.write_bytes(data)
    if later:
        os.utime(file, (later, later))
