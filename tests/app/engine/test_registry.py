from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from structlog.testing import capture_logs

from app.engine.loader import Model
from app.engine.model_cache import UNLOAD_GRACE_S
from app.engine.registry import Registry
from app.errors import ModelUnavailable, Overloaded, UnknownModel
from models import repository
from models.manifest import MANIFEST_NAME, Manifest
from tests.engines import Identity, Loader, Slow
from tests.model_repository import manifest

Put = Callable[..., Path]


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


def registry(*shelves: Path, **fakes: Model) -> Registry:
    return Registry(shelves, Loader(fakes or {"photo": Identity(), "digits": Identity()}))


def test_empty_and_missing_shelves_serve_nothing(tmp_path: Path) -> None:
    empty = registry(tmp_path, tmp_path / "missing")
    assert empty.statuses() == []
    assert empty.defaults() == []
    with pytest.raises(UnknownModel, match="There is no default model for denoise"):
        empty.find("denoise")


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
def test_miss_names_its_neighbours(put: Put, root: Path, name: str, said: str) -> None:
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


def test_the_log_tells_of_defaults_when_the_shelf_is_read_and_not_again(put: Put, root: Path) -> None:
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


def test_first_shelf_counts(put: Put, root: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    put(title="published", default=True)
    put(title="local", to=local, default=True)
    put(name="digits", to=local, default=True)
    with capture_logs() as logs:
        found = registry(root, local)
        assert found.find("denoise").title == "published"
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "model shadowed",
        "several default models",
    ]
    assert found.find("denoise", "digits").id == "denoise/digits@1"


def test_load_once_and_remember(put: Put, root: Path) -> None:
    put(default=True)
    model = Identity()
    loader = Loader({"photo": model})
    found = Registry([root], loader)
    assert found.loaded("denoise/photo@1") is None
    assert found.load("denoise/photo@1") is model
    assert found.load("denoise/photo@1") is found.loaded("denoise/photo@1") is model
    assert loader.loads == ["denoise/photo@1"]
    assert [entry.state for entry in found.statuses()] == ["loaded"]
    with pytest.raises(UnknownModel):
        found.load("denoise/photo@2")
    assert found.loaded("denoise/photo@2") is None


def test_who_comes_during_a_load_waits_for_it_and_other_models_do_not(put: Put, root: Path) -> None:
    put(default=True)
    put(name="digits")
    gate, entered = threading.Event(), threading.Event()

    class Gated(Loader):
        def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
            if manifest.name == "photo":
                entered.set()
                assert gate.wait(30)
            return super().load(folder, manifest, device)

    loader = Gated({"photo": Identity(), "digits": Slow()})
    found = Registry([root], loader)
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(found.load, "denoise/photo@1") for _ in range(4)]
        assert entered.wait(30)
        assert isinstance(found.load("denoise/digits@1"), Slow)
        gate.set()
        assert len({load.result() for load in loads}) == 1
    assert loader.loads.count("denoise/photo@1") == 1


def test_a_load_on_one_device_does_not_stop_what_runs_on_another(put: Put, root: Path) -> None:
    put(default=True)
    gate, entered = threading.Event(), threading.Event()

    class Gated(Loader):
        def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
            if device == "GPU:1":
                entered.set()
                assert gate.wait(30)
            return super().load(folder, manifest, device)

    loader = Gated({"photo": Identity()})
    loader.devices = ["GPU:0", "GPU:1"]
    found = Registry([root], loader)
    there = found.load("denoise/photo@1", "GPU:0")
    with ThreadPoolExecutor(2) as pool:
        coming = pool.submit(found.load, "denoise/photo@1", "GPU:1")
        assert entered.wait(30)
        try:
            assert pool.submit(found.load, "denoise/photo@1", "GPU:0").result(10) is there
        finally:
            gate.set()
        coming.result()


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


# --- the shelf changes ---


def seen(found: Registry) -> list[tuple[str, Any]]:
    """Look twice, as what changed must be still for one look; return (event, model or task) of each line of the log."""
    with capture_logs() as logs:
        found.poll()
        found.poll()
    return [(line["event"], line.get("model") or line.get("task")) for line in logs]


def write_anew(folder: Path, data: bytes = b"graph") -> None:
    """Write the graph again, with a time that differs for sure."""
    file = folder / "saved_model.pb"
    later = file.stat().st_mtime + 2 if file.exists() else 0
    file.write_bytes(data)
    if later:
        os.utime(file, (later, later))


def test_an_unchanged_shelf_is_not_read_again(put: Put, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(default=True)
    (put(version=2) / "saved_model.pb").write_bytes(b"x")
    found = registry(root)
    monkeypatch.setattr(repository, "digest", lambda path: pytest.fail(f"{path} was read"))
    assert seen(found) == []


def test_a_new_model_is_there_at_once_and_a_new_version_when_it_is_proven(put: Put, root: Path) -> None:
    put(default=True)
    found = registry(root)
    model = found.load("denoise/photo@1")
    put(version=2)
    put(name="digits")
    assert seen(found) == [("model added", "denoise/digits@1"), ("model added", "denoise/photo@2")]
    assert found.find("denoise", "digits").version == 1
    assert found.find("denoise").version == found.find("denoise", "photo").version == 1
    assert found.find("denoise", "photo@2").version == 2
    assert [one.id for one in found.pending_promotions()] == ["denoise/photo@2"]
    found.mark_ready("denoise/photo@2")
    assert found.find("denoise").version == found.find("denoise", "photo").version == 2
    assert found.pending_promotions() == []
    assert found.loaded("denoise/photo@1") is model
    assert seen(found) == []


@pytest.mark.parametrize("how", ["manifest", "digest", "graph", "load"])
def test_a_broken_new_version_leaves_the_old_one_serving(put: Put, root: Path, how: str) -> None:
    put(default=True)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    folder = put(version=2)
    if how == "manifest":
        (folder / MANIFEST_NAME).write_text("{", encoding="utf-8")
    elif how == "digest":
        write_anew(folder, b"another")
    elif how == "graph":
        loader.broken["photo"] = "operation PyFunc is not allowed"
    else:
        loader.fakes.clear()
    events = seen(found)
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
    assert seen(found) == []


def test_a_version_that_cannot_be_loaded_gives_way_to_the_one_before(put: Put, root: Path) -> None:
    put(default=True)
    put(version=2)
    loader = Loader({})
    found = Registry([root], loader)
    assert found.find("denoise").version == 2
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@2")
    assert found.find("denoise").version == 1


def test_what_is_being_copied_is_read_when_it_is_still_and_again_when_it_went_on(put: Put, root: Path) -> None:
    put(default=True)
    found = registry(root)
    complete = put(version=2)
    manifest_text = (complete / MANIFEST_NAME).read_text("utf-8")
    (complete / MANIFEST_NAME).unlink()
    for size in range(3):
        write_anew(complete, b"g" * size)  # it grows from look to look
        found.poll()
        assert [entry.id for entry in found.statuses()] == ["denoise/photo@1"]
    assert ("model refused", "denoise/photo@2") in seen(found)  # it was still for a while, and is not complete
    write_anew(complete)
    (complete / MANIFEST_NAME).write_text(manifest_text, encoding="utf-8")
    assert seen(found) == [("model added", "denoise/photo@2")]
    assert [one.id for one in found.pending_promotions()] == ["denoise/photo@2"]


def test_a_failed_load_is_tried_again_when_the_files_change(put: Put, root: Path) -> None:
    folder = put(default=True)
    loader = Loader({})
    found = Registry([root], loader)
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    loader.fakes["photo"] = Identity()
    assert seen(found) == []
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    write_anew(folder)
    seen(found)
    assert found.load("denoise/photo@1") is loader.fakes["photo"]


def test_another_default_takes_the_place_when_it_is_proven(put: Put, root: Path) -> None:
    put(default=True)
    found = registry(root)
    found.load("denoise/photo@1")
    repository.publish(manifest("denoise", "digits"), put(name="other"), root, default=True)  # takes the mark off photo
    seen(found)
    assert found.find("denoise").name == "photo"
    assert [one.name for one in found.pending_promotions()] == ["digits"]
    found.mark_ready("denoise/digits@1")
    assert found.find("denoise").name == "digits"
    assert found.loaded("denoise/photo@1") is not None  # the mark is no reason to load it again


def test_a_removed_version_ends_what_runs_and_is_unloaded_later(put: Put, root: Path) -> None:
    put(default=True)
    removed = put(version=2)
    now = [0.0]
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader, clock=lambda: now[0])
    with found.lease("denoise/photo@2"):
        model = found.load("denoise/photo@2")
        shutil.rmtree(removed)
        assert ("model removed", "denoise/photo@2") in seen(found)
        assert found.find("denoise").version == 1
        with pytest.raises(UnknownModel):
            found.find("denoise", "photo@2")
        now[0] += 1000
        found.poll()
        assert found.load("denoise/photo@2") is model
    found.poll()
    assert found.load("denoise/photo@2") is model  # the same request may ask once more
    now[0] += UNLOAD_GRACE_S
    found.poll()
    assert loader.unloads == [model]
    with pytest.raises(UnknownModel):
        found.load("denoise/photo@2")


def test_a_version_that_is_replaced_by_the_next_serves_until_that_is_proven(put: Put, root: Path) -> None:
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
    assert ("model removed", "denoise/photo@1") in seen(found)


def test_what_left_the_shelf_and_still_serves_makes_no_room(put: Put, root: Path) -> None:
    """Its files are gone: it could not be loaded again."""
    removed = put(default=True)
    put(name="digits")
    loader = Loader({"photo": Identity(), "digits": Identity()})
    found = Registry([root], loader, budget=100)
    found.load("denoise/photo@1")
    put(version=2, default=True)
    shutil.rmtree(removed)
    seen(found)
    found.load("denoise/digits@1")
    assert loader.unloads == []
    assert found.loaded(found.find("denoise").id)


def test_what_does_not_work_gives_its_memory_back(put: Put, root: Path) -> None:
    put(default=True)
    put(version=2)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    model = found.load("denoise/photo@2")
    found.mark_unavailable("denoise/photo@2", "it failed")
    assert loader.unloads == [model]
    assert found.find("denoise").version == 1


def test_what_was_refused_at_work_gives_its_memory_back_later_and_is_read_again_when_its_files_change(
    put: Put, root: Path
) -> None:
    put(default=True)
    folder = put(version=2)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    model = found.load("denoise/photo@2")
    with found.lease("denoise/photo@2"):  # somebody's tile is on the device
        found.mark_unavailable("denoise/photo@2", "it failed")
        found.poll()
        assert loader.unloads == []
    found.poll()
    assert loader.unloads == [model]
    write_anew(folder)
    assert ("model added", "denoise/photo@2") in seen(found)
    assert found.find("denoise", "photo@2").version == 2


def test_files_changed_under_a_model_in_memory_do_not_touch_it(put: Put, root: Path) -> None:
    folder = put(default=True)
    found = registry(root)
    model = found.load("denoise/photo@1")
    write_anew(folder, b"another graph")
    changed = "model files changed, the loaded model stays in use"
    assert seen(found) == [(changed, "denoise/photo@1")]
    assert seen(found) == []
    assert found.load("denoise/photo@1") is model


def test_a_file_that_rots_between_two_loads_is_noticed(put: Put, root: Path) -> None:
    folder = put(default=True)
    found = registry(root)
    (folder / "saved_model.pb").write_bytes(b"grapf")
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    assert found.statuses()[0].reason == "saved_model.pb has another SHA-256 than the manifest says"


@pytest.mark.parametrize("where", ["open", "size", "load"])
def test_a_machine_that_cannot_read_now_is_no_fault_of_the_model(
    put: Put, root: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    put(default=True)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    with monkeypatch.context() as patch:
        patch.setattr(Path if where == "open" else loader, where, Mock(side_effect=OSError(errno.EMFILE, "Too many")))
        with pytest.raises(Overloaded, match=r"denoise/photo@1 cannot be read now"):
            found.load("denoise/photo@1")
    assert found.statuses()[0].state == "unloaded"
    assert found.load("denoise/photo@1") is loader.fakes["photo"]


def test_a_disk_that_fails_is_a_fault_of_the_model(put: Put, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(default=True)
    found = registry(root)
    monkeypatch.setattr(Path, "open", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    assert found.statuses()[0].reason == "manifest.json: Input/output error"


def test_what_could_not_be_read_at_a_look_is_read_again(put: Put, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(default=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        found = registry(root)
    assert found.statuses()[0].reason == "it cannot be read: Too many open files"
    assert seen(found) == [("model added", "denoise/photo@1")]
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
    skipped = [(line["folder"], line["reason"]) for line in logs if line["event"] == "folder skipped"]
    assert skipped == [(str(root / "lost+found"), "Permission denied")]
    locked.add(root / "denoise")
    with pytest.raises(PermissionError):
        found.poll()
    assert found.find("denoise").id == "denoise/photo@1"


# --- memory ---


@pytest.fixture
def five(put: Put, root: Path) -> Callable[..., tuple[Registry, Loader]]:
    """Return what makes a registry of denoise/m0 to m4, of 100 bytes each, with a budget, and its loader."""
    for number in range(5):
        put(name=f"m{number}")

    def made(budget: int, *devices: str) -> tuple[Registry, Loader]:
        loader = Loader({f"m{number}": Identity() for number in range(5)})
        loader.devices = list(devices or loader.devices)
        ticks = itertools.count()
        return Registry([root], loader, budget=budget, clock=lambda: float(next(ticks))), loader

    return made


Five = Callable[..., tuple[Registry, Loader]]


def use(found: Registry, *numbers: int) -> None:
    for number in numbers:
        with found.lease(f"denoise/m{number}@1"):
            found.load(f"denoise/m{number}@1")


def in_memory(found: Registry) -> list[str]:
    return [entry.manifest.name for entry in found.statuses() if entry.state == "loaded" and entry.manifest]


def test_the_least_recently_used_model_makes_room(five: Five) -> None:
    found, loader = five(300)
    use(found, 0, 1, 2, 0, 3)
    assert in_memory(found) == ["m0", "m2", "m3"]
    assert loader.unloads == [loader.fakes["m1"]]
    use(found, 1)
    assert in_memory(found) == ["m0", "m1", "m3"]
    assert loader.loads.count("denoise/m1@1") == 2


def test_without_a_budget_everything_stays(five: Five) -> None:
    found, loader = five(0)
    use(found, 0, 1, 2, 3, 4)
    assert len(in_memory(found)) == 5
    assert loader.unloads == []


def test_what_is_needed_or_kept_makes_room_last(five: Five) -> None:
    found, _ = five(200)
    found.pin("denoise/m0@1")
    with found.lease("denoise/m1@1"):
        use(found, 0, 1, 2)
        assert in_memory(found) == ["m1", "m2"]  # m0 is kept, but m1 is needed
    use(found, 0, 3, 4)
    assert in_memory(found) == ["m0", "m4"]


def test_where_all_are_needed_one_more_is_loaded_and_the_excess_goes_later(five: Five) -> None:
    found, _ = five(100)
    with found.lease("denoise/m0@1"), capture_logs() as logs:
        use(found, 0, 1)
        assert in_memory(found) == ["m0", "m1"]
    assert [line["mebibytes"] for line in logs if line["event"] == "memory budget exceeded"] == [0.0]
    found.poll()
    assert in_memory(found) == ["m0"]


def test_each_device_has_the_budget(five: Five) -> None:
    found, loader = five(100, "GPU:0", "GPU:1")
    found.load("denoise/m0@1", "GPU:0")
    found.load("denoise/m1@1", "GPU:1")
    assert loader.unloads == []
    found.load("denoise/m2@1", "GPU:1")
    assert in_memory(found) == ["m0", "m2"]
    assert found.loaded("denoise/m2@1", "GPU:0") is None


def test_too_little_memory_now_is_no_fault_of_the_model(put: Put, root: Path) -> None:
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
