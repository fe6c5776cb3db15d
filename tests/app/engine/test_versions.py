from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.engine.registry import Registry
from app.engine.versions import ModelVersion, RepositorySnapshot
from app.errors import ModelUnavailable, UnknownModel
from models import repository
from models.manifest import MANIFEST_NAME
from tests.app.engine.registries import Put, poll_twice, registry, rewrite_graph
from tests.engines import Identity, Loader
from tests.model_repository import manifest


def version(number: int) -> ModelVersion:
    described = manifest(name="photo", version=number)
    return ModelVersion("denoise", "photo", number, Path("missing"), (), described, reason="")


def test_promotion_needs_neither_files_nor_models() -> None:
    old, new = version(1), version(2)
    snapshot = RepositorySnapshot().updated({old.id: old})
    snapshot = snapshot.updated({old.id: old, new.id: new})
    assert snapshot.find("denoise", "photo") is old
    assert snapshot.pending_promotions() == [new]
    new.ready = True
    snapshot = snapshot.updated(snapshot.versions)
    assert snapshot.find("denoise", "photo") is new
    assert snapshot.pending_promotions() == []
    new.reason = "it failed"
    assert snapshot.updated(snapshot.versions).find("denoise", "photo") is old


def test_find_by_name_version_and_default(put: Put, root: Path) -> None:
    put(name="digits")
    put(default=True)
    put(version=2)
    put(version=10)
    put("superres", "photo", default=True)
    found = registry(root)
    assert found.find("denoise").id == "denoise/photo@10"  # the mark is on the name
    assert found.find("denoise", "photo").id == "denoise/photo@10"
    assert found.find("denoise", "photo@2").id == "denoise/photo@2"
    assert found.find("denoise", "digits").id == "denoise/digits@1"
    assert found.find("superres").id == "superres/photo@1"
    assert [one.id for one in found.defaults()] == ["denoise/photo@10", "superres/photo@1"]
    assert [entry.id for entry in found.statuses()] == [
        "denoise/digits@1", "denoise/photo@1", "denoise/photo@2", "denoise/photo@10", "superres/photo@1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("foto", "There is no model 'foto' for denoise. Did you mean `photo`? Models: digits, photo."),
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
def test_an_unknown_name_is_answered_with_its_neighbors(put: Put, root: Path, name: str, said: str) -> None:
    put(name="digits")
    put(default=True)
    put(version=2)
    with pytest.raises(UnknownModel) as caught:
        registry(root).find("denoise", name)
    assert said in caught.value.detail
    assert (caught.value.field, caught.value.value) == ("model", name)


def test_models_of_one_task_are_not_anothers(put: Put, root: Path) -> None:
    put("superres", "face", default=True)
    with pytest.raises(UnknownModel):
        registry(root).find("denoise", "face")


def test_a_name_means_the_newest_version_that_can_be_served(put: Put, root: Path) -> None:
    put(default=True)
    put(version=2)
    (put(version=3) / "saved_model.pb").write_bytes(b"x")
    with capture_logs() as logs:
        found = registry(root)
    assert [line["model"] for line in logs if line["event"] == "model refused"] == ["denoise/photo@3"]
    assert found.find("denoise").version == found.find("denoise", "photo").version == 2
    with pytest.raises(ModelUnavailable):
        found.find("denoise", "photo@3")
    assert [(entry.state, entry.latest) for entry in found.statuses()] == [
        ("unloaded", False), ("unloaded", True), ("unavailable", False),
    ]  # fmt: skip


def test_a_new_model_is_served_at_once_and_a_new_version_when_it_is_ready(put: Put, root: Path) -> None:
    put(default=True)
    found = registry(root)
    model = found.load("denoise/photo@1")
    put(version=2)
    put(name="digits")
    assert poll_twice(found) == [("model added", "denoise/digits@1"), ("model added", "denoise/photo@2")]
    assert found.find("denoise", "digits").version == 1
    assert found.find("denoise").version == found.find("denoise", "photo").version == 1
    assert found.find("denoise", "photo@2").version == 2
    assert [one.id for one in found.pending_promotions()] == ["denoise/photo@2"]
    found.mark_ready("denoise/photo@2")
    assert found.find("denoise").version == found.find("denoise", "photo").version == 2
    assert found.pending_promotions() == []
    assert found.find_loaded("denoise/photo@1") is model
    assert poll_twice(found) == []


@pytest.mark.parametrize("how", ["manifest", "digest", "graph", "load"])
def test_a_broken_new_version_leaves_the_old_one_serving(put: Put, root: Path, how: str) -> None:
    put(default=True)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    folder = put(version=2)
    if how == "manifest":
        (folder / MANIFEST_NAME).write_text("{", encoding="utf-8")
    elif how == "digest":
        rewrite_graph(folder, b"another")
    elif how == "graph":
        loader.broken["photo"] = "operation PyFunc is not allowed"
    else:
        loader.fakes.clear()
    events = poll_twice(found)
    if how == "load":
        assert [one.id for one in found.pending_promotions()] == ["denoise/photo@2"]
        with pytest.raises(ModelUnavailable):
            found.load("denoise/photo@2")
    else:
        assert ("model refused", "denoise/photo@2") in events
    assert found.pending_promotions() == []
    assert found.find("denoise").version == found.find("denoise", "photo").version == 1
    with pytest.raises(ModelUnavailable):
        found.find("denoise", "photo@2")
    assert poll_twice(found) == []


def test_the_older_version_serves_where_the_newer_cannot_be_loaded(put: Put, root: Path) -> None:
    put(default=True)
    put(version=2)
    loader = Loader({})
    found = Registry([root], loader)
    assert found.find("denoise").version == 2
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@2")
    assert found.find("denoise").version == 1


def test_another_default_is_promoted_when_it_is_ready(put: Put, root: Path) -> None:
    put(default=True)
    found = registry(root)
    found.load("denoise/photo@1")
    repository.publish(manifest("denoise", "digits"), put(name="other"), root, default=True)  # photo is unmarked
    poll_twice(found)
    assert found.find("denoise").name == "photo"
    assert [one.name for one in found.pending_promotions()] == ["digits"]
    found.mark_ready("denoise/digits@1")
    assert found.find("denoise").name == "digits"
    assert found.find_loaded("denoise/photo@1") is not None  # a change of the mark does not reload it


def test_a_removed_version_serves_until_its_successor_is_ready(put: Put, root: Path) -> None:
    removed = put(default=True)
    found = registry(root)
    found.load("denoise/photo@1")
    put(version=2, default=True)
    shutil.rmtree(removed)
    found.poll()
    assert found.find("denoise").version == 1
    found.poll()
    assert found.find("denoise").version == 1
    found.mark_ready("denoise/photo@2")
    assert found.find("denoise").version == 2
    assert ("model removed", "denoise/photo@1") in poll_twice(found)
