from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from app.engine.registry import Registry
from app.errors import ModelUnavailable, UnknownModel
from models import repository
from models.manifest import MANIFEST_NAME
from tests.app.engine.registries import Put, poll_twice, registry, rewrite_graph
from tests.engines import Identity, Loader


def test_empty_and_missing_folders_serve_nothing(tmp_path: Path) -> None:
    empty = registry(tmp_path, tmp_path / "missing")
    assert empty.statuses() == []
    assert empty.defaults() == []
    with pytest.raises(UnknownModel, match="There is no default model for denoise"):
        empty.find("denoise")


def test_what_breaks_its_contract_is_refused_and_the_rest_served(put: Put, root: Path) -> None:
    put(name="digits", default=True)
    changed = put()
    (changed / "saved_model.pb").write_bytes(b"another graph")
    unreadable = put("superres", "face", default=True)
    (unreadable / MANIFEST_NAME).write_text('{"task": "superres"}', encoding="utf-8")
    put("superres", "unet")
    with capture_logs() as logs:
        found = Registry([root], Loader({"digits": Identity()}, broken={"unet": "operation PyFunc is not allowed"}))
    refused = {line["model"]: line["problems"] for line in logs if line["event"] == "model refused"}
    assert refused["denoise/photo@1"] == ["saved_model.pb has another SHA-256 than the manifest says"]
    assert refused["superres/unet@1"] == ["operation PyFunc is not allowed"]
    assert len(refused["superres/face@1"]) > 5
    states = {entry.id: (entry.state, bool(entry.reason), entry.manifest is None) for entry in found.statuses()}
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
        assert str(root) not in caught.value.detail
        with pytest.raises(ModelUnavailable):
            found.load(f"{task}/{name.partition('@')[0]}@1")


def test_the_first_folder_counts(put: Put, root: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    put(title="published", default=True)
    put(title="local", to=local, default=True)
    put(name="digits", to=local, default=True)
    with capture_logs() as logs:
        found = registry(root, local)
        assert found.find("denoise").title == "published"
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "duplicate model ignored",
        "several default models",
    ]
    assert found.find("denoise", "digits").id == "denoise/digits@1"


def test_unchanged_files_are_not_read_again(put: Put, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(default=True)
    (put(version=2) / "saved_model.pb").write_bytes(b"x")
    found = registry(root)
    monkeypatch.setattr(repository, "digest", lambda path: pytest.fail(f"{path} was read"))
    assert poll_twice(found) == []


def test_a_model_that_is_being_copied_is_read_when_its_files_stop_changing(put: Put, root: Path) -> None:
    put(default=True)
    found = registry(root)
    complete = put(version=2)
    manifest_text = (complete / MANIFEST_NAME).read_text("utf-8")
    (complete / MANIFEST_NAME).unlink()
    for size in range(3):
        rewrite_graph(complete, b"g" * size)  # it grows from poll to poll
        found.poll()
        assert [entry.id for entry in found.statuses()] == ["denoise/photo@1"]
    assert ("model refused", "denoise/photo@2") in poll_twice(found)  # it stopped changing, and is not complete
    rewrite_graph(complete)
    (complete / MANIFEST_NAME).write_text(manifest_text, encoding="utf-8")
    assert poll_twice(found) == [("model added", "denoise/photo@2")]
    assert [one.id for one in found.pending_promotions()] == ["denoise/photo@2"]


def test_changed_files_do_not_affect_a_model_in_memory(put: Put, root: Path) -> None:
    folder = put(default=True)
    found = registry(root)
    model = found.load("denoise/photo@1")
    rewrite_graph(folder, b"another graph")
    changed = "model files changed, the loaded model stays in use"
    assert poll_twice(found) == [(changed, "denoise/photo@1")]
    assert poll_twice(found) == []
    assert found.load("denoise/photo@1") is model


def test_an_unreadable_model_is_read_at_the_next_poll(put: Put, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(default=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        found = registry(root)
    assert found.statuses()[0].reason == "it cannot be read: Too many open files"
    assert poll_twice(found) == [("model added", "denoise/photo@1")]
    assert found.find("denoise").version == 1


def test_a_folder_that_cannot_be_read_is_skipped_and_known_models_in_it_stay(
    put: Put, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(default=True)
    (root / "lost+found").mkdir()
    iterdir = Path.iterdir
    locked = {root / "lost+found"}

    def guarded(path: Path) -> Iterator[Path]:
        if path in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    with capture_logs() as logs:
        found = registry(root)
        found.poll()
    skipped = [(line["folder"], line["reason"]) for line in logs if line["event"] == "folder not readable"]
    assert skipped == [(str(root / "lost+found"), "Permission denied")]
    locked.add(root / "denoise")
    with pytest.raises(PermissionError):
        found.poll()
    assert found.find("denoise").id == "denoise/photo@1"
