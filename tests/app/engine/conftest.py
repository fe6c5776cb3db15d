"""Repositories of models without TensorFlow, and SavedModels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.engine.tensorflow_runtime import Runtime
from models import repository
from tests.app.engine.registries import Put
from tests.model_repository import manifest, picture, save

Build = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def put(tmp_path: Path, root: Path) -> Put:
    """Return a function that publishes a manifest with a file that stands for its graph."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")

    def publish(task: str = "denoise", name: str = "photo", to: Path = root, **changes: Any) -> Path:
        return repository.publish(manifest(task, name, **changes), source, to)

    return publish


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that saves a SavedModel with one function of `image` as the signature `denoise`."""

    def of(function: Callable[[Any], Any], **variables: Any) -> Path:
        import tensorflow as tf

        module = tf.Module()
        for name, one in variables.items():
            setattr(module, name, one)
        named = {"denoise": (lambda image: {"image": function(image)}, {"image": picture()})}
        return save(module, named, tmp_path / "model")

    return of
