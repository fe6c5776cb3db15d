"""The runtime with real SavedModels, valid and broken."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from app.engine.local import LocalEngine
from app.engine.precision import has_bfloat16
from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime, _without_notes
from app.errors import ModelUnavailable, Overloaded
from models import manifest as contract
from models import repository
from models.manifest import Manifest, Signature
from tests.app.engine.conftest import Build
from tests.model_repository import level, manifest, photo_signatures, picture, publish, save
from tests.model_repository import tiny_repository as tiny_repository

pytestmark = pytest.mark.tf

PUBLISHED = Path(__file__).resolve().parents[3] / "models" / "published"


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(3).random(shape, np.float32)


# --- models that keep their contract ---


def test_every_model_of_the_tiny_repository_is_accepted(runtime: Runtime, tiny_repository: Path) -> None:
    found = {repository.open_model(folder).id: folder for folder in repository.folders([tiny_repository])}
    assert len(found) == 6
    for folder in found.values():
        assert runtime.problems(folder, repository.open_model(folder)) == []


def test_signatures_compute_what_they_say(runtime: Runtime, tiny_repository: Path) -> None:
    folder = tiny_repository / "denoise" / "photo" / "1"
    model = runtime.load(folder, repository.open_model(folder))
    image = noise(2, 16, 20, 3)
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)])
    blurred = sum(padded[:, y : y + 16, x : x + 20] for y in range(3) for x in range(3)) / 9
    amount = np.array([0.0, 1.0], np.float32).reshape(2, 1, 1, 1)
    result = model.run("denoise", {"image": image, "level": amount})
    assert result.keys() == {"image"}
    assert result["image"].dtype == np.float32
    np.testing.assert_allclose(result["image"][0], image[0], atol=1e-6)
    np.testing.assert_allclose(result["image"][1], blurred[1], atol=1e-6)
    levels = model.run("estimate", {"image": image})["level"]
    np.testing.assert_allclose(levels, ((image - blurred) ** 2).mean((1, 2, 3), keepdims=True), rtol=1e-4)


def test_enlarging(runtime: Runtime, tiny_repository: Path) -> None:
    folder = tiny_repository / "superres" / "nearest" / "1"
    model = runtime.load(folder, repository.open_model(folder))
    image = noise(1, 5, 7, 3)
    for scale in (2, 3):
        expected = image.repeat(scale, axis=1).repeat(scale, axis=2)
        np.testing.assert_array_equal(model.run(f"x{scale}", {"image": image})["image"], expected)


def test_models_run_through_registry_and_scheduler(runtime: Runtime, tiny_repository: Path) -> None:
    async def work() -> None:
        registry = Registry([tiny_repository], runtime)
        assert [entry.state for entry in registry.statuses()] == ["unloaded"] * 6
        engine = LocalEngine(registry)
        for default in registry.defaults():
            await engine.warm(default)
        assert [entry.id for entry in registry.statuses() if entry.state == "loaded"] == [
            "denoise/photo@1",
            "segment/light@1",
            "superres/nearest@1",
        ]
        engine.find("denoise", "identity")
        images = [noise(1, 32, 32, 3) * i / 50 for i in range(50)]
        requests = [
            InferenceRequest("denoise/identity@1", "denoise", {"image": x}, RequestContext(str(i)), 1024)
            for i, x in enumerate(images)
        ]
        results = await asyncio.gather(*(engine.run(one) for one in requests))
        for image, result in zip(images, results, strict=True):
            np.testing.assert_array_equal(result["image"], image)
        await engine.close(30)

    asyncio.run(work())


def test_device_is_named(runtime: Runtime) -> None:
    assert runtime.device
    assert runtime.devices


# --- a repository that changes ---


def test_a_repository_changes_under_load(runtime: Runtime, tiny_repository: Path, tmp_path: Path) -> None:
    """Versions are added, broken and removed while requests run: version 2 is darker, version 3 has no variables."""
    import tensorflow as tf

    root = tmp_path / "models"
    shutil.copytree(tiny_repository / "denoise" / "blur", root / "denoise" / "blur")

    def darker(version: int, listed: str = "Mul") -> Path:
        module = tf.Module()
        module.factor = tf.Variable(0.5)
        same = {"denoise": lambda image: {"image": image * module.factor}}
        return publish(manifest(name="blur", version=version, operations=[listed]), module, same, root)

    def without_variables(version: int) -> None:
        source = tmp_path / "source"
        shutil.copytree(root / "denoise" / "blur" / "2", source)
        shutil.rmtree(source / "variables")
        repository.publish(manifest(name="blur", version=version, operations=["Mul"]), source, root)

    async def work() -> None:
        engine = LocalEngine(Registry([root], runtime))
        seen: list[tuple[int, float]] = []
        ended = asyncio.Event()

        async def context(number: int) -> None:
            image = np.full((1, 16, 16, 3), number / 8, np.float32)
            while not ended.is_set():
                model = engine.find("denoise", "blur")
                for _ in range(3):  # a request of three tiles keeps the version that it began with
                    result = await engine.run(
                        InferenceRequest(model.id, "denoise", {"image": image}, RequestContext(str(number)), 256)
                    )
                    seen.append((model.version, float(result["image"][0, 8, 8, 0]) / (number / 8)))

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for number in range(1, 5):
                group.create_task(context(number))
            for step in (lambda: darker(2), lambda: without_variables(3), lambda: darker(4, "Relu")):
                await asyncio.to_thread(step)
                await engine.refresh()
                await engine.refresh()
                assert engine.find("denoise", "blur").version == 2
            shutil.rmtree(root / "denoise" / "blur" / "1")
            await engine.refresh()
            await asyncio.sleep(0.1)
            ended.set()
        assert {version for version, _ in seen} == {1, 2}
        for version, brightness in seen:
            assert brightness == pytest.approx({1: 1.0, 2: 0.5}[version], abs=1e-5)
        states = {entry.id[-1]: entry.state for entry in engine.registry.statuses()}
        assert states == {"2": "loaded", "3": "unavailable", "4": "unavailable"}
        await engine.close(30)

    asyncio.run(work())


def resident() -> float:
    """Return the memory of this process in MiB."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_unloading_frees_the_memory(runtime: Runtime) -> None:
    """Two published models in the memory of one: each load unloads the other, thirty times."""
    registry = Registry([PUBLISHED], runtime, budget=1)
    sizes = []
    for turn in range(60):
        name = ("photo@2", "digits@1")[turn % 2]
        image, size = {"photo@2": (3, 64), "digits@1": (1, 28)}[name][0], 64 if turn % 2 == 0 else 28
        inputs = {"image": noise(1, size, size, image)}
        inputs |= {"level": noise(1, 1, 1, 1)} if turn % 2 == 0 else {}
        with registry.lease(f"denoise/{name}"):
            registry.load(f"denoise/{name}").run("denoise", inputs)
        assert sum(entry.state == "loaded" for entry in registry.statuses()) == 1
        sizes.append(resident())
    assert sizes[-1] - sizes[19] < 20, sizes  # a single denoiser that was not freed would be as much


def test_size_in_memory_is_estimated_from_the_files(runtime: Runtime, tiny_repository: Path) -> None:
    folder = tiny_repository / "denoise" / "blur" / "1"
    assert 1e5 < runtime.size(folder) < 2e6
    (photo,) = (PUBLISHED / "denoise" / "photo").glob("[0-9]*")
    assert runtime.size(photo) > 5 * 2**20


TWO_CPUS = """
import asyncio, pathlib, sys
import numpy as np
import tensorflow as tf

tf.debugging.set_log_device_placement(True)
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from app.engine.local import LocalEngine
from app.engine.protocol import RequestContext, InferenceRequest
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime, _without_notes

async def main(root):
    runtime = Runtime()
    engine = LocalEngine(Registry([root], runtime))
    assert list(engine.schedulers) == runtime.devices == ["CPU:0", "CPU:1"]
    images = [np.full((1, 32, 32, 3), i / 16, np.float32) for i in range(16)]
    context = RequestContext("one")
    requests = [InferenceRequest("denoise/blur@1", "denoise", {"image": x}, context, 1024) for x in images]
    results = await asyncio.gather(*map(engine.run, requests))
    for image, result in zip(images, results, strict=True):
        assert abs(result["image"][0, 16, 16] - image[0, 0, 0]).max() < 1e-6
    assert all(scheduler.counters.requests >= 4 for scheduler in engine.schedulers.values())
    await engine.close(10)

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_each_device_has_the_weights_and_does_the_arithmetic(tiny_repository: Path) -> None:
    """TensorFlow logs where it places each operation of the two devices, here parts of one CPU."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_CPUS, str(tiny_repository)],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.findall(r"\((ReadVariableOp|DepthwiseConv2dNative)\): \S+device:(CPU:\d)", done.stderr)
    assert sorted(set(found)) == sorted(
        itertools.product(("DepthwiseConv2dNative", "ReadVariableOp"), ("CPU:0", "CPU:1"))
    )
    assert {found.count(one) for one in found} == {1}


# --- precision ---


def in_two_precisions(root: Path) -> Manifest:
    """Publish denoise/blur as one convolution, in float32 and in bfloat16, and return its manifest."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.full((3, 3, 3, 1), 1 / 9, np.float32))

    def blur(image: Any) -> Any:
        return {"image": tf.nn.depthwise_conv2d(image, module.kernel, [1, 1, 1, 1], "SAME")}

    def in_half(image: Any) -> Any:
        kernel, image = tf.cast(module.kernel, tf.bfloat16), tf.cast(image, tf.bfloat16)
        return {"image": tf.cast(tf.nn.depthwise_conv2d(image, kernel, [1, 1, 1, 1], "SAME"), tf.float32)}

    signature = Signature(
        inputs={"image": picture()}, outputs={"image": picture()}, precisions={"bfloat16": "denoise_bfloat16"}
    )
    described = manifest(
        name="blur", signatures={"denoise": signature}, operations=["Cast", "DepthwiseConv2dNative"], default=True
    )
    functions = {name: (function, signature.inputs) for name, function in
                 (("denoise", blur), ("denoise_bfloat16", in_half))}  # fmt: skip
    return contract.read(repository.publish(described, save(module, functions, root.parent / "saved"), root))


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="TensorFlow computes in bfloat16 with AVX-512 only")


def corrected(root: Path, weight: float) -> Manifest:
    """Publish denoise/blur as the picture plus a convolution of equal weights, and return its manifest."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(np.full((3, 3, 3, 3), weight, np.float32))

    def denoise(image: Any) -> Any:
        return {"image": image + tf.nn.conv2d(image, module.kernel, 1, "SAME")}

    signature = Signature(inputs={"image": picture()}, outputs={"image": picture()}, bfloat16=True)
    described = manifest(name="blur", signatures={"denoise": signature}, operations=["AddV2", "Conv2D"])
    return contract.read(publish(described, module, {"denoise": denoise}, root))


@needs_bfloat16
@pytest.mark.parametrize(("weight", "low", "high"), [(0.0, 0.0, 0.0), (1 / 27, 1e-5, 1e-2)])
def test_in_bfloat16_the_sum_with_the_picture_stays_float32(
    runtime: Runtime, tmp_path: Path, weight: float, low: float, high: float
) -> None:
    described = corrected(tmp_path, weight)
    folder = tmp_path / "denoise" / "blur" / "1"
    assert runtime.problems(folder, described) == []
    model, image = runtime.load(folder, described), noise(2, 32, 40, 3)
    found = model.run("denoise:bfloat16", {"image": image})["image"]
    assert (found.shape, found.dtype) == (image.shape, np.float32)
    apart = np.abs(found - model.run("denoise", {"image": image})["image"]).max()
    assert low <= apart <= high


@needs_bfloat16
def test_inputs_reach_the_function_in_bfloat16_by_their_names(runtime: Runtime, tiny_repository: Path) -> None:
    folder = tiny_repository / "denoise" / "photo" / "1"
    model = runtime.load(folder, repository.open_model(folder))
    for amount in (0.0, 0.5):
        inputs = {"level": np.full((1, 1, 1, 1), amount, np.float32), "image": noise(1, 32, 40, 3)}
        expected = model.run("denoise", inputs)
        found = model.run("denoise:bfloat16", inputs)
        np.testing.assert_allclose(found["image"], expected["image"], atol=0.01)


def test_another_precision_must_keep_the_contract_of_its_signature(runtime: Runtime, tmp_path: Path) -> None:
    described = in_two_precisions(tmp_path / "models")
    folder = tmp_path / "models" / "denoise" / "blur" / "1"
    assert runtime.problems(folder, described) == []
    other = described.signatures["denoise"].model_copy(update={"precisions": {"bfloat16": "half"}})
    assert runtime.problems(folder, described.model_copy(update={"signatures": {"denoise": other}})) == [
        "signature half is missing",
        "signature denoise_bfloat16 is not in the manifest",
    ]


def test_both_precisions_are_measured_and_the_faster_runs(runtime: Runtime, tmp_path: Path) -> None:
    described = in_two_precisions(tmp_path / "models")

    async def work() -> None:
        engine = LocalEngine(Registry([tmp_path / "models"], runtime), precision="auto")
        with capture_logs() as logs:
            await engine.warm(described)
        measured = next(line for line in logs if line["event"] == "precision measured")
        assert measured["seconds"].keys() == {"float32", "bfloat16"}
        assert engine.precisions(described) == {"denoise": measured["precision"]}
        function = {"float32": "denoise", "bfloat16": "denoise_bfloat16"}[measured["precision"]]
        model = engine.registry.load("denoise/blur@1")
        image = noise(1, 32, 32, 3)
        one = await engine.run(
            InferenceRequest("denoise/blur@1", "denoise", {"image": image}, RequestContext("one"), 1024)
        )
        np.testing.assert_array_equal(one["image"], model.run(function, {"image": image})["image"])
        apart = np.abs(
            model.run("denoise_bfloat16", {"image": image})["image"] - model.run("denoise", {"image": image})["image"]
        )
        assert 1e-5 < apart.max() < 1e-2  # the functions differ
        await engine.close(30)

    asyncio.run(work())


# --- models that break their contract ---


def signatures(**changes: Signature) -> dict[str, Signature]:
    return {**photo_signatures(), **changes}


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (manifest(), ["signature estimate is not in the manifest", "denoise inputs are ['image', 'level']"]),
        (
            manifest(signatures=signatures(more=photo_signatures()["denoise"])),
            ["signature more is missing"],
        ),
        (
            manifest(
                signatures=signatures(
                    denoise=Signature(inputs={"image": picture(), "strength": level()}, outputs={"image": picture()})
                )
            ),
            ["denoise inputs are ['image', 'level'], the manifest says ['image', 'strength']"],
        ),
        (
            manifest(
                signatures=signatures(estimate=Signature(inputs={"image": picture(1)}, outputs={"level": level()}))
            ),
            ["estimate input image has shape [-1, -1, -1, 3], the manifest says [-1, -1, -1, 1]"],
        ),
        (
            manifest(
                signatures=signatures(estimate=Signature(inputs={"image": picture()}, outputs={"level": picture()}))
            ),
            ["estimate output level has shape [-1, 1, 1, 1], the manifest says [-1, -1, -1, 3]"],
        ),
    ],
)
def test_signatures_must_be_those_of_the_manifest(
    runtime: Runtime, tiny_repository: Path, described: Manifest, said: list[str]
) -> None:
    problems = runtime.problems(tiny_repository / "denoise" / "photo" / "1", described)
    assert len(problems) == len(said)
    for problem, beginning in zip(problems, said, strict=True):
        assert problem.startswith(beginning)


def test_other_dtypes_are_refused(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    folder = build(lambda image: tf.cast(image, tf.float16))
    listed = manifest(operations=["Cast"])
    assert runtime.problems(folder, listed) == ["denoise output image is DT_HALF, not float32"]


@pytest.mark.parametrize("content", [None, b"", b"no protocol buffer", b"\x00" * 100])
def test_a_broken_graph_is_reported(runtime: Runtime, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    assert len(runtime.problems(tmp_path, manifest())) == 1
    with pytest.raises(ModelUnavailable):
        runtime.load(tmp_path, manifest())


def test_missing_variables_are_unavailable(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    weight = tf.Variable(2.0)
    folder = build(lambda image: image * weight, weight=weight)
    for path in (folder / "variables").iterdir():
        path.unlink()
    with pytest.raises(ModelUnavailable, match=r"^The model denoise/identity@1 cannot be loaded\.$"):
        runtime.load(folder, manifest())


# --- what goes wrong on the device ---


def test_wrong_input_is_unavailable_and_the_next_call_works(runtime: Runtime, tiny_repository: Path) -> None:
    folder = tiny_repository / "denoise" / "blur" / "1"
    model = runtime.load(folder, repository.open_model(folder))
    wrong: list[Arrays] = [{"image": noise(1, 8, 8, 5)}, {"picture": noise(1, 8, 8, 3)}, {}]
    for inputs in wrong:
        with pytest.raises(ModelUnavailable, match=r"^The model denoise/blur@1 failed on this picture\.$"):
            model.run("denoise", inputs)
    assert model.run("denoise", {"image": noise(1, 8, 8, 3)})["image"].shape == (1, 8, 8, 3)


def test_too_little_memory_is_overloaded(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    # Asks for 2 PiB and then keeps one value of it: more than any machine has.
    def huge(image: Any) -> Any:
        return image + tf.reduce_max(tf.fill([2**25, 2**24], image[0, 0, 0, 0]))

    folder = build(huge)
    model = runtime.load(folder, manifest(operations=["AddV2", "Fill", "Max", "StridedSlice"]))
    with pytest.raises(Overloaded):
        model.run("denoise", {"image": noise(1, 4, 4, 3)})


def test_too_many_open_files_do_not_make_a_model_unavailable(
    runtime: Runtime, tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    found = Registry([tiny_repository], runtime)
    folder = tiny_repository / "denoise" / "identity" / "1"
    described = repository.open_model(folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            runtime.problems(folder, described)
        with pytest.raises(Overloaded):
            found.load(described.id)
        monkeypatch.setattr(runtime, "problems", lambda *_: [])
        with pytest.raises(Overloaded):  # TensorFlow finds out first
            runtime.load(folder, described)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found.load(described.id)


def test_importing_the_engine_imports_no_tensorflow() -> None:
    code = (
        "import sys, app.engine.local, app.engine.tensorflow_runtime, app.tasks.denoise, app.tasks.superres;"
        "assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_loading_a_published_model_writes_nothing_to_standard_error() -> None:
    folder = max((PUBLISHED / "denoise" / "digits").glob("[0-9]*"))
    code = (
        "import sys; from pathlib import Path; from app.engine.tensorflow_runtime import Runtime;"
        "from models import manifest; folder = Path(sys.argv[1]); Runtime().load(folder, manifest.read(folder))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, timeout=240, check=True, env=environment,
    )  # fmt: skip
    assert done.stderr == ""


def test_only_notes_of_the_import_are_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with _without_notes():
        os.write(2, b"I0000 00:00:1795925530.986860   30585 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 something is broken\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "E0000 something is broken\nafter\n"


def test_threads_get_the_same_results_together_as_alone(runtime: Runtime) -> None:
    folder = max((PUBLISHED / "denoise" / "digits").glob("[0-9]*"))
    model = runtime.load(folder, contract.read(folder))
    pictures = [np.random.default_rng(seed).random((1, 28, 28, 1), np.float32) for seed in range(40)]
    alone = [model.run("denoise", {"image": one})["image"] for one in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: model.run("denoise", {"image": one})["image"], pictures))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_cpu_with_one_thread_runs_one_batch_at_a_time(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    assert runtime.max_concurrent_batches == 1
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "8")
    assert runtime.max_concurrent_batches == (2 if runtime.device == "CPU" else 1)
