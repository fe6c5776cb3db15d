from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.engine.registry import Model, Registry
from app.errors import ModelUnavailable, UnknownModel
from models import store
from models.manifest import MANIFEST_NAME, Manifest
from tests.engines import Identity, Loader, Slow
from tests.shelf import manifest

Put = Callable[..., Path]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


@pytest.fixture
def put(tmp_path: Path, shelf: Path) -> Put:
    """Publish a manifest with a file that stands for its graph."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")

    def publish(task: str = "denoise", name: str = "photo", to: Path = shelf, **changes: Any) -> Path:
        return store.publish(manifest(task, name, **changes), source, to)

    return publish


def registry(*shelves: Path, **fakes: Model) -> Registry:
    return Registry(shelves, Loader(fakes or {"photo": Identity(), "digits": Identity()}))


def test_empty_and_missing_shelves_serve_nothing(tmp_path: Path) -> None:
    empty = registry(tmp_path, tmp_path / "missing")
    assert empty.entries() == []
    assert empty.defaults() == []
    with pytest.raises(UnknownModel, match="There is no default model for denoise"):
        empty.find("denoise")


def test_find_by_name_version_and_default(put: Put, shelf: Path) -> None:
    put(name="digits")
    put(default=True)
    put(version=2)
    put(version=10)
    put("superres", "photo", default=True)
    found = registry(shelf)
    assert found.find("denoise").id == "denoise/photo@10"  # the mark is on the name
    assert found.find("denoise", "photo").id == "denoise/photo@10"
    assert found.find("denoise", "photo@2").id == "denoise/photo@2"
    assert found.find("denoise", "digits").id == "denoise/digits@1"
    assert found.find("superres").id == "superres/photo@1"
    assert [one.id for one in found.defaults()] == ["denoise/photo@10", "superres/photo@1"]
    assert [entry.id for entry in found.entries()] == [
        "denoise/digits@1", "denoise/photo@1", "denoise/photo@2", "denoise/photo@10", "superres/photo@1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("foto", "There is no model 'foto' for denoise. Did you mean 'photo'? Models: digits, photo."),
        ("zebra", "There is no model 'zebra' for denoise. Models: digits, photo."),
        ("", "There is no model '' for denoise."),
        ("photo@3", "There is no version '3' of denoise/photo. Versions: 1, 2."),
        ("photo@", "There is no version '' of denoise/photo."),
        ("photo@latest", "There is no version 'latest'"),
        ("photo@²", "There is no version '²'"),
        ("photo@" + "9" * 5000, "There is no version"),
        ("photo@1@2", "There is no version '1@2'"),
        ("../photo", "There is no model '../photo'"),
    ],
)
def test_miss_names_its_neighbours(put: Put, shelf: Path, name: str, said: str) -> None:
    put(name="digits")
    put(default=True)
    put(version=2)
    with pytest.raises(UnknownModel) as caught:
        registry(shelf).find("denoise", name)
    assert said in caught.value.detail
    assert (caught.value.field, caught.value.value) == ("model", name)


def test_models_of_one_task_are_not_anothers(put: Put, shelf: Path) -> None:
    put("superres", "face", default=True)
    with pytest.raises(UnknownModel):
        registry(shelf).find("denoise", "face")


def test_what_breaks_its_contract_is_refused_and_the_rest_served(put: Put, shelf: Path) -> None:
    put(name="digits", default=True)
    changed = put()
    (changed / "saved_model.pb").write_bytes(b"another graph")
    unreadable = put("superres", "face", default=True)
    (unreadable / MANIFEST_NAME).write_text('{"task": "superres"}', encoding="utf-8")
    put("superres", "unet")
    with capture_logs() as logs:
        found = Registry([shelf], Loader({"digits": Identity()}, broken={"unet": "operation PyFunc is not allowed"}))
    refused = {line["model"]: line["problems"] for line in logs if line["event"] == "model refused"}
    assert refused["denoise/photo@1"] == ["saved_model.pb has another SHA-256 than the manifest says"]
    assert refused["superres/unet@1"] == ["operation PyFunc is not allowed"]
    assert len(refused["superres/face@1"]) > 5
    states = {entry.id: (entry.state, bool(entry.reason), entry.manifest is None) for entry in found.entries()}
    assert states == {
        "denoise/digits@1": ("unloaded", False, False),
        "denoise/photo@1": ("unavailable", True, False),
        "superres/face@1": ("unavailable", True, True),
        "superres/unet@1": ("unavailable", True, False),
    }
    assert found.find("denoise").id == "denoise/digits@1"
    assert [one.id for one in found.defaults()] == ["denoise/digits@1"]
    for task, name in (("denoise", "photo"), ("superres", "face"), ("superres", "unet@1")):
        with pytest.raises(ModelUnavailable) as caught:
            found.find(task, name)
        assert caught.value.field == "model"
        assert str(shelf) not in caught.value.detail
        with pytest.raises(ModelUnavailable):
            found.load(f"{task}/{name.partition('@')[0]}@1")


def test_broken_newest_version_is_not_replaced_by_an_older_one_in_silence(put: Put, shelf: Path) -> None:
    put(default=True)
    (put(version=2) / "saved_model.pb").write_bytes(b"x")
    found = registry(shelf)
    for name in (None, "photo", "photo@2"):
        with pytest.raises(ModelUnavailable):
            found.find("denoise", name)
    assert found.find("denoise", "photo@1").version == 1


def test_the_log_tells_of_defaults_when_the_shelf_is_read_and_not_again(put: Put, shelf: Path) -> None:
    put("superres", "face")
    put(name="digits", default=True)
    put(default=True)
    with capture_logs() as logs:
        found = registry(shelf)
    warnings = [(line["event"], line["task"]) for line in logs if line["log_level"] == "warning"]
    assert warnings == [("several default models", "denoise"), ("task without default model", "superres")]
    with capture_logs() as logs:
        assert [one.id for one in found.defaults()] == ["denoise/digits@1"]
        found.find("denoise")
    assert logs == []


def test_first_shelf_counts(put: Put, shelf: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    put(title="published", default=True)
    put(title="local", to=local, default=True)
    put(name="digits", to=local, default=True)
    with capture_logs() as logs:
        found = registry(shelf, local)
        assert found.find("denoise").title == "published"
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "model shadowed",
        "several default models",
    ]
    assert found.find("denoise", "digits").id == "denoise/digits@1"


def test_load_once_and_remember(put: Put, shelf: Path) -> None:
    put(default=True)
    model = Identity()
    loader = Loader({"photo": model})
    found = Registry([shelf], loader)
    assert found.loaded("denoise/photo@1") is None
    assert found.load("denoise/photo@1") is model
    assert found.load("denoise/photo@1") is found.loaded("denoise/photo@1") is model
    assert loader.loads == ["denoise/photo@1"]
    assert [entry.state for entry in found.entries()] == ["loaded"]
    with pytest.raises(UnknownModel):
        found.load("denoise/photo@2")
    assert found.loaded("denoise/photo@2") is None


def test_who_comes_during_a_load_waits_for_it_and_other_models_do_not(put: Put, shelf: Path) -> None:
    put(default=True)
    put(name="digits")
    gate, entered = threading.Event(), threading.Event()

    class Gated(Loader):
        def load(self, folder: Path, manifest: Manifest) -> Model:
            if manifest.name == "photo":
                entered.set()
                assert gate.wait(30)
            return super().load(folder, manifest)

    loader = Gated({"photo": Identity(), "digits": Slow()})
    found = Registry([shelf], loader)
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(found.load, "denoise/photo@1") for _ in range(4)]
        assert entered.wait(30)
        assert isinstance(found.load("denoise/digits@1"), Slow)
        gate.set()
        assert len({load.result() for load in loads}) == 1
    assert loader.loads.count("denoise/photo@1") == 1


def test_failed_load_is_remembered(put: Put, shelf: Path) -> None:
    put(default=True)
    loader = Loader({})
    found = Registry([shelf], loader)
    for _ in range(2):
        with pytest.raises(ModelUnavailable, match="denoise/photo@1 is on the shelf but cannot be served"):
            found.load("denoise/photo@1")
    assert loader.loads == ["denoise/photo@1"]
    assert found.entries()[0].reason == "It cannot be loaded."
    with pytest.raises(ModelUnavailable):
        found.find("denoise")


def test_scan_finds_new_models_and_keeps_loaded_ones(put: Put, shelf: Path) -> None:
    put(default=True)
    found = registry(shelf)
    model = found.load("denoise/photo@1")
    put(version=2)
    assert found.find("denoise").version == 1
    found.scan()
    assert found.find("denoise").version == 2
    assert found.loaded("denoise/photo@1") is model
    assert found.loaded("denoise/photo@2") is None
