"""A repository of models that need no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import repository
from tests.app.engine.registries import Put
from tests.model_repository import manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


@pytest.fixture
def put(tmp_path: Path, root: Path) -> Put:
    """Publish a manifest with a file that stands for its graph."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")

    def publish(task: str = "denoise", name: str = "photo", to: Path = root, **changes: Any) -> Path:
        return repository.publish(manifest(task, name, **changes), source, to)

    return publish
