from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from app.engine.loader import Model
from app.engine.registry import Registry
from app.errors import ModelUnavailable, Overloaded
from models.manifest import Manifest
from tests.app.engine.registries import Put, poll_twice, registry, rewrite_graph
from tests.engines import Identity, Loader


def test_problems_with_defaults_are_logged_once_a_scan(put: Put, root: Path) -> None:
    put("superres", "face")
    put(name="digits", default=True)
    put(default=True)
    with capture_logs() as logs:
        found = registry(root)
    warnings = [(line["event"], line["task"]) for line in logs if line["log_level"] == "warning"]
    assert warnings == [("several default models", "denoise"), ("task without default model", "superres")]
    with capture_logs() as logs:
        assert [one.id for one in found.defaults()] == ["denoise/digits@1"]
        found.find("denoise")
    assert logs == []


def test_a_chosen_default_counts_more_than_the_marked_one(put: Put, root: Path) -> None:
    put(default=True)
    put(name="digits")
    loader = Loader({"photo": Identity(), "digits": Identity()})
    assert Registry([root], loader, defaults={"denoise": "digits"}).find("denoise").id == "denoise/digits@1"
    with capture_logs() as logs:
        found = Registry([root], loader, defaults={"denoise": "scans"})
    assert found.find("denoise").id == "denoise/photo@1"
    assert [(line["event"], line["name"]) for line in logs if line["log_level"] == "warning"] == [
        ("no such default model", "scans")
    ]


def test_failed_load_is_remembered(put: Put, root: Path) -> None:
    put(default=True)
    loader = Loader({})
    found = Registry([root], loader)
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="denoise/photo@1 failed to load and is not served"):
            found.load("denoise/photo@1")
    assert loader.loads == ["denoise/photo@1"]
    assert found.statuses()[0].reason == "It cannot be loaded."
    with pytest.raises(ModelUnavailable):
        found.find("denoise")


def test_a_failed_load_is_tried_again_when_the_files_change(put: Put, root: Path) -> None:
    folder = put(default=True)
    loader = Loader({})
    found = Registry([root], loader)
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    loader.fakes["photo"] = Identity()
    assert poll_twice(found) == []
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    rewrite_graph(folder)
    poll_twice(found)
    assert found.load("denoise/photo@1") is loader.fakes["photo"]


@pytest.mark.parametrize("where", ["open", "size", "load"])
def test_a_transient_read_error_does_not_make_a_model_unavailable(
    put: Put, root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    put(default=True)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    with monkeypatch.context() as patch:
        patch.setattr(Path if where == "open" else loader, where, Mock(side_effect=OSError(errno.EMFILE, "Too many")))
        with pytest.raises(Overloaded, match=r"denoise/photo@1 cannot be read"):
            found.load("denoise/photo@1")
    assert found.statuses()[0].state == "unloaded"
    assert found.load("denoise/photo@1") is loader.fakes["photo"]


def test_a_disk_error_makes_a_model_unavailable(put: Put, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(default=True)
    found = registry(root)
    monkeypatch.setattr(Path, "open", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    assert found.statuses()[0].reason == "manifest.json: Input/output error"


def test_too_little_memory_does_not_make_a_model_unavailable(put: Put, root: Path) -> None:
    put(default=True)

    class Small(Loader):
        full = True

        def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
            if self.full:
                raise Overloaded("The device has too little memory.")
            return super().load(folder, manifest, device)

    loader = Small({"photo": Identity()})
    found = Registry([root], loader)
    with pytest.raises(Overloaded):
        found.load("denoise/photo@1")
    loader.full = False
    assert found.load("denoise/photo@1") is loader.fakes["photo"]
