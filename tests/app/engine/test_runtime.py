"""The runtime with real SavedModels, good and evil."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.local import LocalEngine
from app.engine.protocol import Arrays, Caller, Ticket
from app.engine.registry import Registry
from app.engine.runtime import ALLOWED, SAVER, WIRING, Runtime
from app.errors import ModelUnavailable, Overloaded
from models import store
from models.manifest import Manifest, Signature
from tests.shelf import level, manifest, photo_signatures, picture, save
from tests.shelf import tiny_shelf as tiny_shelf

pytestmark = pytest.mark.tf

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Save a SavedModel of one function of `image` as the signature `denoise`."""

    def of(function: Callable[[Any], Any], **variables: Any) -> Path:
        import tensorflow as tf

        module = tf.Module()
        for name, one in variables.items():
            setattr(module, name, one)
        named = {"denoise": (lambda image: {"image": function(image)}, {"image": picture()})}
        return save(module, named, tmp_path / "model")

    return of


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(3).random(shape, np.float32)


# --- models that keep their contract ---


def test_every_model_of_the_tiny_shelf_is_accepted(runtime: Runtime, tiny_shelf: Path) -> None:
    found = {store.open_model(folder).id: folder for folder in store.folders([tiny_shelf])}
    assert len(found) == 6
    for folder in found.values():
        assert runtime.problems(folder, store.open_model(folder)) == []


def test_signatures_compute_what_they_say(runtime: Runtime, tiny_shelf: Path) -> None:
    folder = tiny_shelf / "denoise" / "photo" / "1"
    model = runtime.load(folder, store.open_model(folder))
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


def test_enlarging(runtime: Runtime, tiny_shelf: Path) -> None:
    folder = tiny_shelf / "superres" / "nearest" / "1"
    model = runtime.load(folder, store.open_model(folder))
    image = noise(1, 5, 7, 3)
    for scale in (2, 3):
        expected = image.repeat(scale, axis=1).repeat(scale, axis=2)
        np.testing.assert_array_equal(model.run(f"x{scale}", {"image": image})["image"], expected)


def test_through_registry_and_scheduler(runtime: Runtime, tiny_shelf: Path) -> None:
    async def work() -> None:
        registry = Registry([tiny_shelf], runtime)
        assert [entry.state for entry in registry.entries()] == ["unloaded"] * 6
        engine = LocalEngine(registry)
        for default in registry.defaults():
            await engine.warm(default)
        assert [entry.id for entry in registry.entries() if entry.state == "loaded"] == [
            "denoise/photo@1",
            "segment/light@1",
            "superres/nearest@1",
        ]
        engine.find("denoise", "identity")
        images = [noise(1, 32, 32, 3) * i / 50 for i in range(50)]
        tickets = [
            Ticket("denoise/identity@1", "denoise", {"image": x}, Caller(str(i)), 1024) for i, x in enumerate(images)
        ]
        results = await asyncio.gather(*(engine.run(one) for one in tickets))
        for image, result in zip(images, results, strict=True):
            np.testing.assert_array_equal(result["image"], image)
        await engine.close(30)

    asyncio.run(work())


def test_device_is_named(runtime: Runtime) -> None:
    assert runtime.device


# --- models that do not ---


def test_lists_do_not_overlap_where_it_matters() -> None:
    assert WIRING <= ALLOWED
    assert not ALLOWED & SAVER
    assert not {name for name in ALLOWED if "File" in name or "PyFunc" in name or "Recv" in name}


def evil(name: str) -> Callable[[Any], Any]:
    """Return a function of `image` that uses something it must not."""
    import tensorflow as tf

    place = {"prefix": "/tmp/never", "tensor_names": ["x"], "shape_and_slices": [""]}

    def twice(image: Any) -> Any:
        return image * 2

    functions: dict[str, Callable[[Any], Any]] = {
        "EagerPyFunc": lambda image: tf.ensure_shape(tf.py_function(twice, [image], tf.float32), [None, None, None, 3]),
        "PyFunc": lambda image: tf.ensure_shape(tf.numpy_function(twice, [image], tf.float32), [None, None, None, 3]),
        "ReadFile": lambda image: image + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32),
        "WriteFile": lambda image: after(tf.io.write_file("/tmp/never", "x"), image),
        "MatchingFiles": lambda image: image + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32),
        "PrintV2": lambda image: after(tf.print("hello"), image),
        "SaveV2": lambda image: after(tf.raw_ops.SaveV2(tensors=[image], **place), image),
        "RestoreV2": lambda image: image + tf.raw_ops.RestoreV2(dtypes=[tf.float32], **place)[0],
    }  # fmt: skip

    def after(operation: Any, image: Any) -> Any:
        with tf.control_dependencies([operation] if operation is not None else []):
            return tf.identity(image)

    return functions[name]


@pytest.mark.parametrize(
    "operation",
    ["EagerPyFunc", "PyFunc", "ReadFile", "WriteFile", "MatchingFiles", "PrintV2", "SaveV2", "RestoreV2"],
)
def test_forbidden_operation_is_found_wherever_it_hides(runtime: Runtime, build: Build, operation: str) -> None:
    import tensorflow as tf

    inner = tf.function(evil(operation))  # one function further in than a signature
    folder = build(lambda image: tf.cond(tf.reduce_sum(image) > 1e30, lambda: inner(image), lambda: image))
    listed = manifest(operations=[*sorted(ALLOWED), operation])  # listing it in the manifest does not help
    assert f"operation {operation} is not allowed in a signature" in runtime.problems(folder, listed)
    with pytest.raises(ModelUnavailable):
        runtime.load(folder, listed)


def test_operation_must_be_listed_in_the_manifest_too(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    folder = build(lambda image: tf.nn.relu(image) * 2)
    assert runtime.problems(folder, manifest(operations=["Mul"])) == ["operation Relu is not listed in the manifest"]
    assert runtime.problems(folder, manifest(operations=["Mul", "Relu"])) == []


def test_function_beside_the_signatures_is_held_to_the_same(runtime: Runtime, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.hidden = tf.function(
        lambda image: tf.numpy_function(lambda x: x, [image], tf.float32), input_signature=[tf.TensorSpec([1])]
    )
    module.hidden.get_concrete_function()
    folder = save(module, {"denoise": (lambda image: {"image": image * 2}, {"image": picture()})}, tmp_path / "model")
    assert "operation PyFunc is not allowed in a signature" in runtime.problems(folder, manifest())


def test_state_between_calls_is_refused(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    seen = tf.Variable(0.0)
    folder = build(lambda image: image + seen.assign_add(tf.reduce_mean(image)), seen=seen)
    assert "operation AssignAddVariableOp is not allowed in a signature" in runtime.problems(folder, manifest())


def test_tables_and_assets_are_refused(runtime: Runtime, tmp_path: Path, build: Build) -> None:
    import tensorflow as tf

    (tmp_path / "words").write_text("a\nb\n", encoding="utf-8")
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )  # fmt: skip
    folder = build(lambda image: image + tf.cast(table.lookup(tf.constant("a")), tf.float32), table=table)
    problems = runtime.problems(folder, manifest())
    assert "assets are not allowed" in problems
    assert "an object of kind resource is not allowed" in problems
    assert "operation LookupTableFindV2 is not allowed in a signature" in problems


def test_signature_led_to_the_saver_is_refused(runtime: Runtime, build: Build) -> None:
    """A graph whose signature was re-wired by hand: what is let pass for saving is not let pass for serving."""
    from tensorflow.core.protobuf import saved_model_pb2

    import tensorflow as tf  # isort: skip

    weight = tf.Variable(2.0)
    folder = build(lambda image: image * weight, weight=weight)
    assert runtime.problems(folder, manifest()) == []
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0]
    graph.signature_def["denoise"].outputs["image"].name = graph.saver_def.restore_op_name + ":0"
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    assert "operation RestoreV2 is not allowed in a signature" in runtime.problems(folder, manifest())


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
def test_signatures_must_be_the_manifests(
    runtime: Runtime, tiny_shelf: Path, described: Manifest, said: list[str]
) -> None:
    problems = runtime.problems(tiny_shelf / "denoise" / "photo" / "1", described)
    assert len(problems) == len(said)
    for problem, beginning in zip(problems, said, strict=True):
        assert problem.startswith(beginning)


def test_other_dtypes_are_refused(runtime: Runtime, build: Build) -> None:
    import tensorflow as tf

    folder = build(lambda image: tf.cast(image, tf.float16))
    listed = manifest(operations=["Cast"])
    assert runtime.problems(folder, listed) == ["denoise output image is DT_HALF, not float32"]


@pytest.mark.parametrize("content", [None, b"", b"no protocol buffer", b"\x00" * 100])
def test_broken_graph_is_a_problem_and_no_crash(runtime: Runtime, tmp_path: Path, content: bytes | None) -> None:
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


def test_wrong_input_is_unavailable_and_the_next_call_works(runtime: Runtime, tiny_shelf: Path) -> None:
    folder = tiny_shelf / "denoise" / "blur" / "1"
    model = runtime.load(folder, store.open_model(folder))
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


def test_importing_the_engine_imports_no_tensorflow() -> None:
    code = (
        "import sys, app.engine.local, app.engine.runtime, app.tasks.denoise, app.tasks.superres;"
        "assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
