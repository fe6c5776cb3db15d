"""Signatures in 8 bit on LiteRT, and files that break the contract; `test_local` says when they are used."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.graph_allowlist import ALLOWED_LITERT_OPERATORS
from app.engine.litert_runtime import QuantizedModel
from app.engine.local import LocalEngine
from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import LoadedModel, Runtime
from app.errors import ModelUnavailable
from models import repository
from models.manifest import Manifest, QuantizedSignature
from tests.model_repository import tiny_repository as tiny_repository

pytest.importorskip("ai_edge_litert")

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]

FILE = "quantized/denoise.tflite"
SIZES = [(64, 64), (32, 64)]
Changed = Callable[..., tuple[Path, Manifest]]


@pytest.fixture(scope="module")
def content(tiny_repository: Path) -> bytes:
    """A LiteRT file of the tiny denoiser, for two sizes."""
    from training.export.eight_bit import convert

    return convert(tiny_repository / "denoise/photo/1", "denoise", SIZES, [])


@pytest.fixture
def root(tiny_repository: Path, content: bytes, tmp_path: Path) -> Changed:
    """Return a function that publishes the tiny denoiser with a quantized signature whose entry has `changes`."""
    from training.export.eight_bit import operators

    def of(written: bytes = content, **changes: Any) -> tuple[Path, Manifest]:
        old = repository.open_model(tiny_repository / "denoise/photo/1")
        shutil.copytree(tiny_repository / "denoise/photo/1", tmp_path / "made")
        (tmp_path / "made/quantized").mkdir()
        (tmp_path / "made" / FILE).write_bytes(written)
        fields: dict[str, Any] = {
            "signature": "denoise",
            "file": FILE,
            "bytes": len(written),
            "precision": "dynamic",
            "sizes": SIZES,
            "figures": {"psnr": (30.0, 30.0)},
            "faster": 2.0,
            "operators": operators(content),
        }
        quantized = QuantizedSignature(**(fields | changes))
        folder = repository.publish(
            old.model_copy(update={"quantized": [quantized]}), tmp_path / "made", tmp_path / "models"
        )
        return folder, repository.open_model(folder)

    return of


def inputs(*shape: int) -> Arrays:
    image = np.random.default_rng(3).random((*shape, 3), np.float32)
    return {"image": image, "level": np.full((shape[0], 1, 1, 1), 0.5, np.float32)}


def saved(runtime: Runtime, tiny_repository: Path) -> LoadedModel:
    folder = tiny_repository / "denoise/photo/1"
    return runtime.load(folder, repository.open_model(folder))


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 32, 64)])
def test_a_quantized_signature_gives_what_the_saved_model_gives(
    runtime: Runtime, tiny_repository: Path, root: Changed, shape: tuple[int, ...]
) -> None:
    folder, manifest = root()
    quantized = QuantizedModel(folder, manifest, manifest.quantized[0])
    found = quantized.run(inputs(*shape))
    expected = saved(runtime, tiny_repository).run("denoise", inputs(*shape))
    assert found.keys() == expected.keys() == {"image"}
    assert found["image"].dtype == np.float32
    np.testing.assert_allclose(found["image"], expected["image"], atol=0.02)


@pytest.mark.parametrize("shape", [(2, 64, 64), (1, 64, 32), (1, 20, 16)])
def test_other_sizes_and_batches_are_refused(runtime: Runtime, root: Changed, shape: tuple[int, ...]) -> None:
    folder, manifest = root()
    with pytest.raises(ValueError, match="no function for this size"):
        QuantizedModel(folder, manifest, manifest.quantized[0]).run(inputs(*shape))
    with pytest.raises(ModelUnavailable):
        runtime.load(folder, manifest).run("denoise:int8", inputs(*shape))


def test_a_loaded_model_runs_both(runtime: Runtime, tiny_repository: Path, root: Changed) -> None:
    folder, manifest = root()
    assert runtime.problems(folder, manifest) == []
    model, given = runtime.load(folder, manifest), inputs(1, 64, 64)
    expected = QuantizedModel(folder, manifest, manifest.quantized[0]).run(given)
    np.testing.assert_array_equal(model.run("denoise:int8", given)["image"], expected["image"])
    expected = saved(runtime, tiny_repository).run("denoise", given)
    np.testing.assert_array_equal(model.run("denoise", given)["image"], expected["image"])


def test_an_engine_computes_in_8_bit(runtime: Runtime, root: Changed) -> None:
    folder, manifest = root()

    async def work() -> None:
        engine = LocalEngine(Registry([folder.parents[2]], runtime), precision="int8")
        context = RequestContext("one")
        request = InferenceRequest(manifest.id, "denoise", inputs(1, 64, 64), context, 64 * 64)
        found = await engine.run(request)
        assert context.usage.precision("denoise") == "int8"
        expected = QuantizedModel(folder, manifest, manifest.quantized[0]).run(request.inputs)
        np.testing.assert_array_equal(found["image"], expected["image"])
        await engine.close(10)

    asyncio.run(work())


# --- files that break the contract ---


def test_no_allowed_operator_reaches_beyond_its_tensors() -> None:
    assert not ALLOWED_LITERT_OPERATORS & {"CUSTOM", "CALL_ONCE", "WHILE", "IF", "VAR_HANDLE", "HASHTABLE", "DELEGATE"}


def test_operators_must_be_listed_in_the_manifest(runtime: Runtime, root: Changed) -> None:
    folder, manifest = root(operators=["ADD"])
    problems = runtime.problems(folder, manifest)
    assert f"operator MUL of {FILE} is not listed in the manifest" in problems
    assert all(FILE in problem for problem in problems)


def test_an_operator_that_is_not_allowed_is_refused(runtime: Runtime, root: Changed) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 64, 64, 3), tf.float32)])
    def counts(image: Any) -> Any:
        return tf.while_loop(lambda x: tf.reduce_sum(x) < 1e9, lambda x: [x + image], [image])[0]

    written = tf.lite.TFLiteConverter.from_concrete_functions([counts.get_concrete_function()], tf.Module()).convert()
    folder, manifest = root(written, operators=["WHILE", "ADD", "SUM", "LESS"])
    assert f"operator WHILE is not allowed in {FILE}" in runtime.problems(folder, manifest)
    assert [entry.state for entry in Registry([folder.parents[2]], runtime).statuses()] == ["unavailable"]


@pytest.mark.parametrize("end", [0, 100, -1])
def test_a_truncated_file_is_refused(runtime: Runtime, root: Changed, content: bytes, end: int) -> None:
    folder, manifest = root(content[:end], bytes=1)
    assert runtime.problems(folder, manifest) == [f"{FILE} cannot be read"]


def test_a_file_that_lacks_a_size_is_refused_and_the_saved_model_runs(runtime: Runtime, root: Changed) -> None:
    folder, manifest = root(sizes=[(48, 48)])
    with pytest.raises((ValueError, RuntimeError)):
        QuantizedModel(folder, manifest, manifest.quantized[0])
    model, given = runtime.load(folder, manifest), inputs(1, 48, 48)
    with pytest.raises(ModelUnavailable):
        model.run("denoise:int8", given)
    assert model.run("denoise", given)["image"].shape == (1, 48, 48, 3)


def test_a_function_of_other_tensors_is_refused(root: Changed, tiny_repository: Path) -> None:
    from training.export.eight_bit import convert, operators

    other = convert(tiny_repository / "denoise/photo/1", "estimate", SIZES, [])
    folder, manifest = root(other, operators=operators(other))
    with pytest.raises(ValueError, match="the manifest says"):
        QuantizedModel(folder, manifest, manifest.quantized[0])
