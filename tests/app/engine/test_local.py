from __future__ import annotations

import asyncio
import math
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from app.engine.loader import Model
from app.engine.local import LocalEngine, clearly_fastest, warm_sizes
from app.engine.model_cache import UNLOAD_GRACE_S
from app.engine.precision import MeasuredPrecisions
from app.engine.protocol import Arrays
from app.engine.registry import Registry
from app.errors import ModelUnavailable, Overloaded, ShuttingDown, UnknownModel
from models import repository
from models.manifest import Geometry, Manifest, QuantizedSignature, Signature, SizeRule
from tests.engines import Chain, Costly, Failing, Loader, Recording, Slow, request
from tests.model_repository import DIGIT, digit_signatures, manifest, photo_signatures, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "saved_model.pb").write_bytes(b"graph")
    root = tmp_path / "models"
    described = [
        manifest(default=True, batch_sizes=[1, 2]),
        manifest(name="photo", signatures=photo_signatures()),
        manifest(name="digits", signatures=digit_signatures(), geometry=DIGIT),
    ]
    for one in described:
        repository.publish(one, source, root)
    return root


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

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
        self.entered.set()
        assert self.gate.wait(30)
        return super().load(folder, manifest, device)


class Shapes:
    """A model that records the shapes and the first value of its inputs."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, tuple[int, ...]], float]] = []

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        shapes = {name: array.shape for name, array in inputs.items()}
        self.calls.append((signature, shapes, float(inputs["image"].flat[0])))
        return dict(inputs)


def test_many_requests_wait_for_one_load_and_share_batches(root: Path) -> None:
    async def work() -> None:
        loader = Gated(identity=Costly(call=0.005))
        engine = LocalEngine(Registry([root], loader))
        for tiles in (1, 2, 4):
            engine.latency.record("denoise/identity@1", "denoise", 64, tiles, 0.005)
        assert engine.find("denoise").id == "denoise/identity@1"
        callers = [asyncio.create_task(engine.run(request(i))) for i in range(20)]
        await asyncio.to_thread(loader.entered.wait, 30)
        callers[0].cancel()
        await asyncio.wait([callers[0]])
        loader.gate.set()
        results = await asyncio.gather(*callers[1:])
        assert [float(one["image"].flat[0]) for one in results] == list(range(1, 20))
        assert loader.loads == ["denoise/identity@1"]
        assert max(engine.schedulers["CPU:0"].counters.batch_sizes) == 2  # the manifest's largest
        await engine.close(10)

    scenario(work)


def test_max_batch_caps_the_manifest(root: Path) -> None:
    async def work() -> None:
        loader = Loader({"identity": Recording()})
        engine = LocalEngine(Registry([root], loader), max_batch=1)
        engine.find("denoise")
        await asyncio.gather(*(engine.run(request(i)) for i in range(9)))
        assert engine.schedulers["CPU:0"].counters.batch_sizes == {1: 9}
        await engine.close(10)

    scenario(work)


def test_a_failed_load_fails_every_request_that_waits(root: Path) -> None:
    async def work() -> None:
        engine = LocalEngine(Registry([root], Loader({})))
        results = await asyncio.gather(*(engine.run(request(i)) for i in range(3)), return_exceptions=True)
        assert [type(one) for one in results] == [ModelUnavailable] * 3
        with pytest.raises(ModelUnavailable):
            engine.find("denoise")
        with pytest.raises(UnknownModel):
            await engine.run(request(model="denoise/nobody@1"))
        await engine.close(10)

    scenario(work)


def test_warm_runs_every_signature_at_the_usual_size_or_at_all(root: Path) -> None:
    async def work() -> None:
        model = Shapes()
        slow = Chain(Costly(call=0.13), model)
        engine = LocalEngine(Registry([root], Loader({"photo": slow, "digits": slow})), max_batch=1)
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
        assert [entry.state for entry in engine.registry.statuses()] == ["loaded", "unloaded", "loaded"]
        await engine.close(10)

    scenario(work)


def test_warm_measures_batches_only_once(root: Path) -> None:
    async def work() -> None:
        model = Recording()
        engine = LocalEngine(Registry([root], Loader({"identity": Chain(model, Costly(tile=0.1))})))
        await engine.warm(engine.find("denoise"))
        assert [batch for _, batch, _ in model.calls] == [
            1,
            1,
            2,
            2,
        ]  # two take twice as long: no more is tried
        await engine.warm(engine.find("denoise"))
        assert [batch for _, batch, _ in model.calls] == [1, 1, 2, 2, 1]
        await engine.close(10)

    scenario(work)


def test_warm_measures_other_sizes_where_that_is_quick(root: Path) -> None:
    async def work() -> None:
        model = Shapes()
        engine = LocalEngine(Registry([root], Loader({"photo": model})), max_batch=1)
        await engine.warm(engine.find("denoise", "photo"))
        assert [shapes["image"] for _, shapes, _ in model.calls] == [(1, 32, 32, 3), (1, 64, 64, 3)] * 2
        await engine.close(10)

    scenario(work)


# --- a repository that changes ---


async def refreshed(engine: LocalEngine) -> None:
    """Refresh twice, as new files must be the same at two polls."""
    await engine.refresh()
    await engine.refresh()


def test_a_new_version_is_promoted_once_it_is_warm(root: Path, tmp_path: Path) -> None:
    async def work() -> None:
        loader = Loader({"identity": Recording()})
        engine = LocalEngine(Registry([root], loader))
        await engine.run(request())
        repository.publish(manifest(version=2), tmp_path / "source", root)
        await refreshed(engine)
        assert engine.find("denoise").id == "denoise/identity@2"
        assert loader.loads == ["denoise/identity@1", "denoise/identity@2"]
        await engine.close(10)

    scenario(work)


def test_a_new_version_that_does_not_work_is_never_promoted(root: Path, tmp_path: Path) -> None:
    class Second(Loader):
        """Loads what fails as any version but the first."""

        def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
            model = super().load(folder, manifest, device)
            return model if manifest.version == 1 else Failing()

    async def work() -> None:
        loader = Second({"identity": Recording()})
        engine = LocalEngine(Registry([root], loader))
        repository.publish(manifest(version=2), tmp_path / "source", root)
        await refreshed(engine)
        assert engine.find("denoise").id == "denoise/identity@1"
        with pytest.raises(ModelUnavailable):
            engine.find("denoise", "identity@2")
        await refreshed(engine)
        assert loader.loads == ["denoise/identity@2"]  # not again
        await engine.close(10)

    scenario(work)


def test_a_new_version_that_finds_no_memory_is_tried_again(root: Path, tmp_path: Path) -> None:
    async def work() -> None:
        loader = Loader({"identity": Failing(error=Overloaded("The device has too little memory."))})
        engine = LocalEngine(Registry([root], loader))
        repository.publish(manifest(version=2), tmp_path / "source", root)
        await refreshed(engine)
        assert engine.find("denoise").id == "denoise/identity@1"
        loader.fakes["identity"].limit = np.inf  # type: ignore[attr-defined]
        await engine.refresh()
        assert engine.find("denoise").id == "denoise/identity@2"
        await engine.close(10)

    scenario(work)


def test_a_model_in_use_stays_and_an_idle_one_is_evicted(root: Path) -> None:
    async def work() -> None:
        slow = Slow()
        loader = Loader({"identity": slow, "photo": Recording(), "digits": Recording()})
        engine = LocalEngine(Registry([root], loader, budget=100))
        running = asyncio.create_task(engine.run(request()))
        await asyncio.to_thread(slow.entered.wait, 30)
        others = [asyncio.create_task(engine.run(request(model=f"denoise/{name}@1"))) for name in ("photo", "digits")]
        while len(loader.loads) < 3:
            await asyncio.sleep(0.001)
        assert loader.unloads == []  # requests wait for all three
        slow.gate.set()
        await asyncio.gather(running, *others)
        await engine.refresh()
        assert len(loader.unloads) == 2
        await engine.close(10)

    scenario(work)


# --- several devices ---


class Devices(Loader):
    """Two devices, whose models differ by the device they were loaded on."""

    def __init__(self, **models: Model) -> None:
        super().__init__()
        self.devices = list(models)
        self.models = models

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
        self.loads.append(f"{manifest.name} on {device}")
        return self.models[device]


def test_requests_spread_over_the_devices(root: Path) -> None:
    async def work() -> None:
        loader = Devices(first=Slow(), second=Slow())
        engine = LocalEngine(Registry([root], loader))
        tasks = [asyncio.create_task(engine.run(request(i, request_id="one"))) for i in range(10)]
        for slow in loader.models.values():
            assert await asyncio.to_thread(slow.entered.wait, 30)  # type: ignore[attr-defined]
        for slow in loader.models.values():
            slow.gate.set()  # type: ignore[attr-defined]
        results = await asyncio.gather(*tasks)
        assert [float(one["image"].flat[0]) for one in results] == list(range(10))
        assert [scheduler.counters.requests for scheduler in engine.schedulers.values()] == [5, 5]
        assert sorted(loader.loads) == ["identity on first", "identity on second"]
        await engine.close(10)

    scenario(work)


def test_a_request_goes_to_the_device_with_the_least_work_ahead(root: Path) -> None:
    async def work() -> None:
        slow = Slow()
        loader = Devices(first=slow, second=Recording())
        engine = LocalEngine(Registry([root], loader))
        stuck = asyncio.create_task(engine.run(request(size=64)))
        assert await asyncio.to_thread(slow.entered.wait, 30)
        for i in range(5):
            await engine.run(request(i))
        assert engine.schedulers["second"].counters.requests == 5
        slow.gate.set()
        await stuck
        await engine.close(10)

    scenario(work)


def test_a_removed_model_runs_where_it_is_loaded(root: Path) -> None:
    async def work() -> None:
        slow = Slow()
        loader = Devices(first=slow, second=Recording())
        engine = LocalEngine(Registry([root], loader))
        tasks = [asyncio.create_task(engine.run(request()))]
        assert await asyncio.to_thread(slow.entered.wait, 30)
        shutil.rmtree(root / "denoise" / "identity")
        await engine.refresh()
        tasks.append(asyncio.create_task(engine.run(request(1))))  # the other device is idle, but the files are gone
        await asyncio.sleep(0)
        slow.gate.set()
        await asyncio.gather(*tasks)
        assert loader.loads == ["identity on first"]
        await engine.close(10)

    scenario(work)


def test_warm_on_every_device(root: Path) -> None:
    async def work() -> None:
        loader = Devices(first=Recording(), second=Recording())
        engine = LocalEngine(Registry([root], loader))
        await engine.warm(engine.find("denoise"))
        assert loader.loads == ["identity on first", "identity on second"]
        await engine.close(10)

    scenario(work)


# --- precision ---


class Paced:
    """A model whose functions take the given seconds, by name."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.calls: list[str] = []

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.calls.append(signature)
        if self.seconds[signature] == math.inf:
            raise ModelUnavailable("This device cannot do it.")
        time.sleep(self.seconds[signature])
        return dict(inputs)


@pytest.mark.parametrize(
    ("half", "used"),
    [(0.001, "bfloat16"), (0.1, "float32"), (math.inf, "float32")],
    ids=["faster", "slower", "impossible"],
)
def test_the_precision_that_is_clearly_faster_here_is_used(tmp_path: Path, half: float, used: str) -> None:
    async def work() -> None:
        signature = Signature(
            inputs={"image": picture()}, outputs={"image": picture()}, precisions={"bfloat16": "in_half"}
        )
        (tmp_path / "source").mkdir()
        described = manifest(signatures={"denoise": signature}, default=True)
        repository.publish(described, tmp_path / "source", tmp_path / "models")
        model = Paced(denoise=0.02, in_half=half)
        engine = LocalEngine(Registry([tmp_path / "models"], Loader({"identity": model})), precision="auto")
        assert engine.precisions(engine.find("denoise")) == {"denoise": "float32"}
        await engine.warm(engine.find("denoise"))
        assert model.calls[:6] == ["denoise", "in_half"] * 3
        assert engine.precisions(engine.find("denoise")) == {"denoise": used}
        model.calls.clear()
        await engine.run(request())
        assert model.calls == ["in_half" if used == "bfloat16" else "denoise"]
        await engine.close(10)

    scenario(work)


def test_a_precision_is_chosen_again_for_another_model_with_the_same_version(tmp_path: Path) -> None:
    async def work() -> None:
        signature = Signature(
            inputs={"image": picture()}, outputs={"image": picture()}, precisions={"bfloat16": "in_half"}
        )
        source, root, now = tmp_path / "source", tmp_path / "models", [0.0]
        source.mkdir()
        loader = Loader({"identity": Paced(denoise=0.02, in_half=0.001)})
        folder = repository.publish(manifest(signatures={"denoise": signature}, default=True), source, root)
        engine = LocalEngine(Registry([root], loader, clock=lambda: now[0]), precision="auto")
        await engine.run(request())
        assert engine.precisions(engine.find("denoise")) == {"denoise": "bfloat16"}
        shutil.rmtree(folder)
        await engine.refresh()
        now[0] += UNLOAD_GRACE_S
        await engine.refresh()
        repository.publish(manifest(default=True), source, root)  # without the other precision
        await refreshed(engine)
        loader.fakes["identity"] = Paced(denoise=0.0)
        await engine.run(request())
        assert engine.precisions(engine.find("denoise")) == {"denoise": "float32"}
        await engine.close(10)

    scenario(work)


@pytest.mark.parametrize(
    ("half", "int8", "chosen"),
    [
        (0.91, 2.0, "float32"),  # no slower by the margin
        (0.9, 2.0, "bfloat16"),
        (0.5, 0.4, "int8"),
        (math.inf, math.inf, "float32"),
    ],
)
def test_another_precision_must_be_faster_by_a_margin(half: float, int8: float, chosen: str) -> None:
    assert clearly_fastest("float32", {"float32": 1.0, "bfloat16": half, "int8": int8}) == chosen


def published(root: Path, **changes: Any) -> Path:
    """Publish the default denoiser, its signature with `changes` and two sizes in 8 bit."""
    entry = QuantizedSignature(
        signature="denoise", file="denoise.tflite", bytes=1, precision="dynamic", sizes=[(64, 64)],
        figures={"psnr": (30.0, 30.0)}, faster=2.0, operators=["ADD"],
    )  # fmt: skip
    (root / "source").mkdir(parents=True)
    (root / "source" / "denoise.tflite").write_bytes(b"8 bit")
    signature = Signature(inputs={"image": picture()}, outputs={"image": picture()}, **changes)
    described = manifest(
        signatures={"denoise": signature}, default=True, batch_sizes=[1, 8], quantized=[entry],
        files={"denoise.tflite": "0" * 64},
    )  # fmt: skip
    repository.publish(described, root / "source", root / "models")
    return root / "models"


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"precision": "float32", "bfloat16": "fastest"}, "denoise"),
        ({"precision": "auto", "bfloat16": "fastest"}, "denoise:bfloat16"),
        ({"precision": "auto", "bfloat16": "fast"}, "denoise:int8"),
        ({"precision": "auto"}, "denoise:int8"),
        ({"precision": "bfloat16"}, "denoise:bfloat16"),
        ({"precision": "int8"}, "denoise:int8"),
    ],
)
def test_tiles_go_to_the_function_of_the_precision(settings: dict[str, Any], used: str, tmp_path: Path) -> None:
    async def work() -> None:
        seconds = {"denoise": 0.02, "denoise:bfloat16": 0.02, "denoise:int8": 0.001}
        model = Paced(**seconds)
        root = published(tmp_path, bfloat16=True)
        engine = LocalEngine(Registry([root], Loader({"identity": model})), **settings)
        asked = request(size=64)
        await engine.run(asked)
        assert model.calls[-1] == used
        precision = used.partition(":")[2] or "float32"
        assert asked.context.usage.precision("denoise") == precision
        assert engine.precisions(engine.find("denoise")) == {"denoise": precision}
        exact = request(size=64)
        await engine.run(replace(exact, context=replace(exact.context, exact=True)))
        assert model.calls[-1] == "denoise"
        assert exact.context.usage.precision("denoise") == "float32"
        assert {row[1] for row in engine.latency.rows()} >= {"denoise", used}  # their times are kept apart
        if used == "denoise:int8":  # a size that the file does not have
            await engine.run(request(size=32))
            assert model.calls[-1] == ("denoise:bfloat16" if "bfloat16" in settings else "denoise")
        await engine.close(10)

    scenario(work)


def test_in_8_bit_a_tile_of_another_size_is_float32_and_batches_are_of_one(tmp_path: Path) -> None:
    async def work() -> None:
        model = Recording()
        engine = LocalEngine(Registry([published(tmp_path)], Loader({"identity": model})), precision="int8")
        engine.find("denoise")
        for tiles, seconds in ((1, 0.01), (2, 0.011), (4, 0.012)):
            for name in ("denoise", "denoise:int8"):
                engine.latency.record("denoise/identity@1", name, 64 * 64, tiles, seconds)
                engine.latency.record("denoise/identity@1", name, 32 * 32, tiles, seconds)
        await engine.run(request(size=64))
        model.calls.clear()
        await asyncio.gather(*(engine.run(request(i, size=size)) for size in (64, 32) for i in range(8)))
        sizes = {name: {batch for one, batch, _ in model.calls if one == name} for name, *_ in model.calls}
        assert sizes["denoise:int8"] == {1}
        assert max(sizes["denoise"]) > 1
        await engine.close(10)

    scenario(work)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    async def work() -> None:
        root, path = published(tmp_path), tmp_path / "precision.json"
        for calls in (["denoise", "denoise:int8"] * 3, []):
            model = Paced(**{"denoise": 0.02, "denoise:int8": 0.001})
            registry = Registry([root], Loader({"identity": model}))
            engine = LocalEngine(registry, precision="auto", measured=MeasuredPrecisions(path, "this processor"))
            await engine.run(request(size=64))
            assert model.calls[: len(calls)] == calls
            assert model.calls[len(calls) :] == ["denoise:int8"] * 2  # that it still works, and the request
            await engine.close(10)

    scenario(work)


def test_what_could_not_be_measured_is_measured_again(tmp_path: Path) -> None:
    async def work() -> None:
        root, path = published(tmp_path), tmp_path / "precision.json"
        for seconds, used in ((math.inf, "float32"), (0.001, "int8")):  # LiteRT is installed in the meantime
            model = Paced(**{"denoise": 0.02, "denoise:int8": seconds})
            registry = Registry([root], Loader({"identity": model}))
            engine = LocalEngine(registry, precision="auto", measured=MeasuredPrecisions(path))
            await engine.run(request(size=64))
            assert engine.precisions(engine.find("denoise")) == {"denoise": used}
            await engine.close(10)

    scenario(work)


def test_a_precision_that_is_not_there_is_not_used(tmp_path: Path) -> None:
    async def work() -> None:
        model = Paced(**{"denoise": 0.0, "denoise:int8": math.inf})
        engine = LocalEngine(Registry([published(tmp_path)], Loader({"identity": model})), precision="int8")
        assert engine.precisions(engine.find("denoise")) == {"denoise": "int8"}  # until it was tried
        with capture_logs() as logs:
            await engine.run(request(size=64))
        assert [line["precision"] for line in logs if line["event"] == "precision not available"] == ["int8"]
        assert engine.precisions(engine.find("denoise")) == {"denoise": "float32"}
        await engine.close(10)

    scenario(work)


def test_a_precision_that_fails_later_is_replaced_by_the_signatures_own(tmp_path: Path) -> None:
    async def work() -> None:
        model = Paced(**{"denoise": 0.0, "denoise:bfloat16": 0.0})
        root = published(tmp_path, bfloat16=True)
        engine = LocalEngine(Registry([root], Loader({"identity": model})), precision="bfloat16")
        await engine.run(request())
        model.seconds["denoise:bfloat16"] = math.inf
        with capture_logs() as logs:
            for _ in range(2):
                await engine.run(request())
        assert model.calls[-3:] == ["denoise:bfloat16", "denoise", "denoise"]
        assert [line["function"] for line in logs if line["event"] == "precision failed"] == ["denoise:bfloat16"]
        model.seconds["denoise"] = math.inf
        with pytest.raises(ModelUnavailable):
            await engine.run(request())
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


def test_closed_engine_is_shutting_down(root: Path) -> None:
    async def work() -> None:
        engine = LocalEngine(Registry([root], Loader({"identity": Recording()})))
        await engine.run(request())
        await engine.close(10)
        with pytest.raises(ShuttingDown):
            await engine.run(request())

    scenario(work)
