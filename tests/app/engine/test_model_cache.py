from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.engine.loader import Model
from app.engine.model_cache import UNLOAD_GRACE_S
from app.engine.registry import Registry
from app.errors import ModelUnavailable, UnknownModel
from models.manifest import Manifest
from tests.app.engine.registries import Put, poll_twice, registry, rewrite_graph
from tests.engines import Identity, Loader, Slow


@pytest.fixture
def five(put: Put, root: Path) -> Callable[..., tuple[Registry, Loader]]:
    """Return a function that makes a registry of denoise/m0 to m4, of 100 bytes each, with a budget, and its loader."""
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


def test_a_model_is_loaded_once(put: Put, root: Path) -> None:
    put(default=True)
    model = Identity()
    loader = Loader({"photo": model})
    found = Registry([root], loader)
    assert found.find_loaded("denoise/photo@1") is None
    assert found.load("denoise/photo@1") is model
    assert found.load("denoise/photo@1") is found.find_loaded("denoise/photo@1") is model
    assert loader.loads == ["denoise/photo@1"]
    assert [entry.state for entry in found.statuses()] == ["loaded"]
    with pytest.raises(UnknownModel):
        found.load("denoise/photo@2")
    assert found.find_loaded("denoise/photo@2") is None


def test_a_second_load_waits_for_the_first_and_other_models_do_not(put: Put, root: Path) -> None:
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


def test_a_load_on_one_device_does_not_block_another(put: Put, root: Path) -> None:
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


def test_a_removed_version_finishes_its_requests_and_is_unloaded_later(put: Put, root: Path) -> None:
    put(default=True)
    removed = put(version=2)
    now = [0.0]
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader, clock=lambda: now[0])
    with found.lease("denoise/photo@2"):
        model = found.load("denoise/photo@2")
        shutil.rmtree(removed)
        assert ("model removed", "denoise/photo@2") in poll_twice(found)
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


def test_a_removed_version_in_service_is_not_evicted(put: Put, root: Path) -> None:
    """Its files are gone: it could not be loaded again."""
    removed = put(default=True)
    put(name="digits")
    loader = Loader({"photo": Identity(), "digits": Identity()})
    found = Registry([root], loader, budget=100)
    found.load("denoise/photo@1")
    put(version=2, default=True)
    shutil.rmtree(removed)
    poll_twice(found)
    found.load("denoise/digits@1")
    assert loader.unloads == []
    assert found.find_loaded(found.find("denoise").id)


def test_an_unavailable_model_is_unloaded(put: Put, root: Path) -> None:
    put(default=True)
    put(version=2)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    model = found.load("denoise/photo@2")
    found.mark_unavailable("denoise/photo@2", "it failed")
    assert loader.unloads == [model]
    assert found.find("denoise").version == 1


def test_a_model_that_fails_in_use_is_unloaded_later_and_read_again_when_its_files_change(put: Put, root: Path) -> None:
    put(default=True)
    folder = put(version=2)
    loader = Loader({"photo": Identity()})
    found = Registry([root], loader)
    model = found.load("denoise/photo@2")
    with found.lease("denoise/photo@2"):  # a tile of it is on the device
        found.mark_unavailable("denoise/photo@2", "it failed")
        found.poll()
        assert loader.unloads == []
    found.poll()
    assert loader.unloads == [model]
    rewrite_graph(folder)
    assert ("model added", "denoise/photo@2") in poll_twice(found)
    assert found.find("denoise", "photo@2").version == 2


def test_a_file_damaged_between_two_loads_is_noticed(put: Put, root: Path) -> None:
    folder = put(default=True)
    found = registry(root)
    (folder / "saved_model.pb").write_bytes(b"grapf")
    with pytest.raises(ModelUnavailable):
        found.load("denoise/photo@1")
    assert found.statuses()[0].reason == "saved_model.pb has another SHA-256 than the manifest says"


def test_the_least_recently_used_model_is_evicted(five: Five) -> None:
    found, loader = five(300)
    use(found, 0, 1, 2, 0, 3)
    assert in_memory(found) == ["m0", "m2", "m3"]
    assert loader.unloads == [loader.fakes["m1"]]
    use(found, 1)
    assert in_memory(found) == ["m0", "m1", "m3"]
    assert loader.loads.count("denoise/m1@1") == 2


def test_without_a_budget_nothing_is_evicted(five: Five) -> None:
    found, loader = five(0)
    use(found, 0, 1, 2, 3, 4)
    assert len(in_memory(found)) == 5
    assert loader.unloads == []


def test_pinned_models_are_evicted_last_and_leased_ones_never(five: Five) -> None:
    found, _ = five(200)
    found.pin("denoise/m0@1")
    with found.lease("denoise/m1@1"):
        use(found, 0, 1, 2)
        assert in_memory(found) == ["m1", "m2"]  # m0 is pinned, but m1 is leased
    use(found, 0, 3, 4)
    assert in_memory(found) == ["m0", "m4"]


def test_where_all_are_leased_one_more_is_loaded_and_the_excess_evicted_later(five: Five) -> None:
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
    assert found.find_loaded("denoise/m2@1", "GPU:0") is None
