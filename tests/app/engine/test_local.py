from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.local import LocalEngine, warm_sizes
from app.engine.protocol import Arrays
from app.engine.registry import Model, Registry
from app.errors import ModelUnavailable, ShuttingDown, UnknownModel
from models import store
from models.manifest import Geometry, Manifest, SizeRule
from tests.engines import Loader, Recording, ticket
from tests.shelf import DIGIT, digit_signatures, manifest, photo_signatures


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")
    shelf = tmp_path / "shelf"
    described = [
        manifest(default=True, batch_sizes=[1, 2]),
        manifest(name="photo", signatures=photo_signatures()),
        manifest(name="digits", signatures=digit_signatures(), geometry=DIGIT),
    ]
    for one in described:
        store.publish(one, source, shelf)
    return shelf


def scenario(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(limited())


class Gated(Loader):
    """Loads when `gate` is open."""

    def __init__(self, **fakes: Model) -> None:
        super().__init__(fakes)
        self.gate, self.entered = threading.Event(), threading.Event()

    def load(self, folder: Path, manifest: Manifest) -> Model:
        self.entered.set()
        assert self.gate.wait(30)
        return super().load(folder, manifest)


class Shapes:
    """A model that keeps the shapes and the first value of what it got."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, tuple[int, ...]], float]] = []

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        shapes = {name: array.shape for name, array in inputs.items()}
        self.calls.append((signature, shapes, float(inputs["image"].flat[0])))
        return dict(inputs)


def test_many_callers_wait_for_one_load_and_share_batches(shelf: Path) -> None:
    async def work() -> None:
        model = Recording()
        loader = Gated(identity=model)
        engine = LocalEngine(Registry([shelf], loader))
        assert engine.find("denoise").id == "denoise/identity@1"
        callers = [asyncio.create_task(engine.run(ticket(i))) for i in range(20)]
        await asyncio.to_thread(loader.entered.wait, 30)
        callers[0].cancel()
        await asyncio.wait([callers[0]])
        loader.gate.set()
        results = await asyncio.gather(*callers[1:])
        assert [float(one["image"].flat[0]) for one in results] == list(range(1, 20))
        assert loader.loads == ["denoise/identity@1"]
        assert max(engine.scheduler.counters.batch_sizes) == 2  # the manifest's largest
        await engine.close(10)

    scenario(work)


def test_max_batch_caps_the_manifest(shelf: Path) -> None:
    async def work() -> None:
        loader = Loader({"identity": Recording()})
        engine = LocalEngine(Registry([shelf], loader), max_batch=1)
        engine.find("denoise")
        await asyncio.gather(*(engine.run(ticket(i)) for i in range(9)))
        assert engine.scheduler.counters.batch_sizes == {1: 9}
        await engine.close(10)

    scenario(work)


def test_failed_load_fails_each_caller(shelf: Path) -> None:
    async def work() -> None:
        engine = LocalEngine(Registry([shelf], Loader({})))
        results = await asyncio.gather(*(engine.run(ticket(i)) for i in range(3)), return_exceptions=True)
        assert [type(one) for one in results] == [ModelUnavailable] * 3
        with pytest.raises(ModelUnavailable):
            engine.find("denoise")
        with pytest.raises(UnknownModel):
            await engine.run(ticket(model="denoise/nobody@1"))
        await engine.close(10)

    scenario(work)


def test_warm_runs_every_signature_at_the_usual_size_or_at_all(shelf: Path) -> None:
    async def work() -> None:
        model = Shapes()
        engine = LocalEngine(Registry([shelf], Loader({"photo": model, "digits": model})))
        await engine.warm(engine.find("denoise", "photo"))
        assert model.calls == [
            ("denoise", {"image": (1, 32, 32, 3), "level": (1, 1, 1, 1)}, 0.5),
            ("estimate", {"image": (1, 32, 32, 3)}, 0.5),
        ]
        model.calls.clear()
        await engine.warm(engine.find("denoise", "photo"), every_size=True)
        assert [shapes["image"] for _, shapes, _ in model.calls] == [(1, 32, 32, 3), (1, 64, 64, 3)] * 2
        model.calls.clear()
        await engine.warm(engine.find("denoise", "digits"))
        assert model.calls == [("denoise", {"image": (1, 28, 28, 1)}, 0.5)]
        assert [entry.state for entry in engine.registry.entries()] == ["loaded", "unloaded", "loaded"]
        await engine.close(10)

    scenario(work)


@pytest.mark.parametrize(
    ("geometry", "sizes"),
    [
        (Geometry(kind="tiled", tile_size=128, tile_step=64), [(64, 64), (128, 128)]),
        (Geometry(kind="fixed", valid_sizes=[(28, 30)]), [(28, 30)]),
        (Geometry(kind="canonical", canonical_sizes=[(384, 640), (512, 512)]), [(384, 640), (512, 512)]),
        (Geometry(kind="whole"), [(64, 64)]),
        (Geometry(kind="whole", size_rule=SizeRule(modulus=8, remainder=4)), [(76, 76)]),
    ],
)
def test_sizes_to_warm_keep_the_geometry(geometry: Geometry, sizes: list[tuple[int, int]]) -> None:
    assert warm_sizes(geometry) == sizes
    if geometry.size_rule:
        assert all(side % geometry.size_rule.modulus == geometry.size_rule.remainder for side in np.ravel(sizes))


def test_closed_engine_is_shutting_down(shelf: Path) -> None:
    async def work() -> None:
        engine = LocalEngine(Registry([shelf], Loader({"identity": Recording()})))
        await engine.run(ticket())
        await engine.close(10)
        with pytest.raises(ShuttingDown):
            await engine.run(ticket())

    scenario(work)
