"""Signatures in 8 bit on LiteRT: used where they are faster; the SavedModel runs where they fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.graph_allowlist import ALLOWED_LITERT_OPERATORS
from app.engine.litert_runtime import QuantizedModel
from app.engine.protocol import Arrays
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import LoadedModel, Runtime
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


class Broken(QuantizedModel):
    """A quantized signature whose interpreter fails."""

    def run(self, inputs: Arrays) -> Arrays:
        raise RuntimeError("XNNPACK ran out of something")


def saved(runtime: Runtime, tiny_repository: Path) -> LoadedModel:
    folder = tiny_repository / "denoise/photo/1"
    return runtime.load(folder, repository.open_model(folder))


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 32, 64)])
def test_a_quantized_signature_gives_what_the_saved_model_gives(
    runtime: Runtime, tiny_repository: Path, root: Changed, shape: tuple[int, ...]
) -> None:
    folder, manifest = root()
    quantized = QuantizedModel(folder, manifest, manifest.quantized[0])
    assert quantized.accepts(inputs(*shape))
    found = quantized.run(inputs(*shape))
    expected = saved(runtime, tiny_repository).run("denoise", inputs(*shape))
    assert found.keys() == expected.keys() == {"image"}
    assert found["image"].dtype == np.float32
    np.testing.assert_allclose(found["image"], expected["image"], atol=0.02)


@pytest.mark.parametrize("shape", [(2, 64, 64), (1, 64, 32), (1, 20, 16)])
def test_the_saved_model_runs_for_all_other_sizes(
    runtime: Runtime, tiny_repository: Path, root: Changed, shape: tuple[int, ...]
) -> None:
    folder, manifest = root()
    model = saved(runtime, tiny_repository)
    expected = model.run("denoise", inputs(*shape))
    model.use(QuantizedModel(folder, manifest, manifest.quantized[0]))
    np.testing.assert_array_equal(model.run("denoise", inputs(*shape))["image"], expected["image"])


def test_a_quantized_signature_in_use_is_run(runtime: Runtime, tiny_repository: Path, root: Changed) -> None:
    folder, manifest = root()
    model, quantized = saved(runtime, tiny_repository), QuantizedModel(folder, manifest, manifest.quantized[0])
    model.use(quantized)
    given = inputs(1, 64, 64)
    np.testing.assert_array_equal(model.run("denoise", given)["image"], quantized.run(given)["image"])


def test_the_saved_model_runs_when_the_quantized_signature_fails(
    runtime: Runtime, tiny_repository: Path, root: Changed
) -> None:
    folder, manifest = root()
    model, given = saved(runtime, tiny_repository), inputs(1, 64, 64)
    expected = model.run("denoise", given)
    model.use(Broken(folder, manifest, manifest.quantized[0]))
    for _ in range(2):
        np.testing.assert_array_equal(model.run("denoise", given)["image"], expected["image"])


def test_a_loaded_model_runs_every_size(runtime: Runtime, root: Changed) -> None:
    folder, manifest = root()
    assert runtime.problems(folder, manifest) == []
    model = runtime.load(folder, manifest)
    for shape in [(1, 64, 64), (1, 32, 64), (3, 16, 16)]:
        assert model.run("denoise", inputs(*shape))["image"].shape == (*shape, 3)


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


def test_where_the_file_lacks_a_size_the_saved_model_runs(
    runtime: Runtime, root: Changed, tiny_repository: Path
) -> None:
    folder, manifest = root(sizes=[(48, 48)])
    with pytest.raises((ValueError, RuntimeError)):
        QuantizedModel(folder, manifest, manifest.quantized[0])
    given = inputs(1, 48, 48)
    expected = saved(runtime, tiny_repository).run("denoise", given)
    np.testing.assert_array_equal(runtime.load(folder, manifest).run("denoise", given)["image"], expected["image"])


def test_a_function_of_other_tensors_is_refused(root: Changed, tiny_repository: Path) -> None:
    from training.export.eight_bit import convert, operators

    other = convert(tiny_repository / "denoise/photo/1", "estimate", SIZES, [])
    folder, manifest = root(other, operators=operators(other))
    with pytest.raises(ValueError, match="the manifest says"):
        QuantizedModel(folder, manifest, manifest.quantized[0])
