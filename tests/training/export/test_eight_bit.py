"""A published model gets its variant in 8 bit, calibrated on training pictures, or it is said why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import repository
from tests.model_repository import TILED, manifest, photo_signatures
from tests.training import tiny
from training.data.packs import Packs

pytest.importorskip("ai_edge_litert")

pytestmark = [
    pytest.mark.tf,
    # What Keras does with a TensorFlow variable under NumPy 2, and what the converter says of its own interpreter.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning"),
]

PACKS = Packs("none")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny denoiser with weights that do something, in a model repository."""
    from training.export.manifest import operations
    from training.export.savedmodel import save

    network = tiny.network()
    random = np.random.default_rng(0)
    for layer in network.layers:
        for variable in layer.weights:
            variable.assign(random.normal(0, 0.1, variable.shape).astype(np.float32))
    folder = tmp_path_factory.mktemp("made")
    save({"denoise": network}, folder / "model")
    described = manifest(
        name="tiny",
        signatures={"denoise": photo_signatures()["denoise"]},
        geometry=TILED,
        operations=operations(folder / "model"),
        default=True,
    )
    return repository.publish(described, folder / "model", folder / "repository")


@pytest.mark.parametrize("precision", ["int8", "dynamic"])
def test_the_next_version_has_a_variant_that_answers_alike(published: Path, tmp_path: Path, precision: Any) -> None:
    from app.engine.litert_runtime import QuantizedModel
    from app.engine.tensorflow_runtime import Runtime
    from training.export.eight_bit import quantize
    from training.export.savedmodel import Published

    place = quantize(tiny.recipe(), PACKS, published, tmp_path, precisions=[precision], samples=8, gain=0)
    assert place == tmp_path / "denoise/tiny/2"
    made = repository.open_model(place)
    assert repository.is_default(made)
    assert made.created > repository.open_model(published).created
    (variant,) = made.quantized
    assert (variant.signature, variant.precision, variant.sizes) == ("denoise", precision, [(64, 64)])
    assert variant.bytes == (place / variant.file).stat().st_size
    before, after = variant.figures["psnr"]
    assert 0 < before - 0.1 < after
    assert Runtime().problems(place, made) == []
    assert "denoise/tiny@2" in (place / "card.md").read_text()
    assert f"| denoise | {precision} | 64x64 |" in (place / "card.md").read_text()

    loaded = QuantizedModel(place, made, variant)
    random = np.random.default_rng(1)
    inputs = {"image": random.random((1, 64, 64, 3), np.float32), "level": np.full((1, 1, 1, 1), 0.3, np.float32)}
    difference = np.abs(loaded.run(inputs)["image"] - Published(place)["denoise"](inputs)["image"])
    assert 0 < difference.max() < 0.05


def test_calibrates_on_what_training_shows_the_network() -> None:
    from training.export.eight_bit import training_samples

    samples = training_samples(tiny.recipe().parts["denoise"], PACKS, 11)
    assert len(samples) == 11
    clean = np.concatenate([tiny.scenes(0, 8), tiny.scenes(1, 8)])[:11, None]
    for one, scene in zip(samples, clean, strict=True):
        assert one["level"] == pytest.approx(np.full((1, 1, 1, 1), 0.2))
        assert one["image"].shape == (1, tiny.SIZE, tiny.SIZE, 3)
        assert np.std(one["image"] - scene) == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ([(64, 64)], 112),
        ([(256, 256)], 30),
        ([(512, 512)], 8),
        ([(256, 256)] * 7, 56),
        ([(512, 512)] * 20, 112),
    ],
)
def test_large_sizes_have_fewer_samples(sizes: list[tuple[int, int]], count: int) -> None:
    from training.export.eight_bit import sample_count

    assert sample_count(sizes) == count


def test_what_litert_cannot_compute_is_not_kept(published: Path, tmp_path: Path) -> None:
    from training.export.eight_bit import QuantizationRejected, QuantizedModel, quantize

    def validate(network: Any, packs: Packs) -> dict[str, float]:
        if isinstance(network, QuantizedModel):
            raise RuntimeError("DIV only supports FLOAT32")
        return {"psnr": 30.0}

    with pytest.raises(QuantizationRejected, match="denoise dynamic does not run: DIV only supports FLOAT32"):
        quantize(tiny.recipe(validate=validate), PACKS, published, tmp_path, precisions=["dynamic"])


def test_a_part_that_takes_no_time_is_not_tried(published: Path, tmp_path: Path) -> None:
    from training.export.eight_bit import QuantizationRejected, quantize

    with pytest.raises(QuantizationRejected, match="denoise takes no time"):
        quantize(tiny.recipe(eight_bit=False), PACKS, published, tmp_path)


def test_what_is_not_faster_is_not_kept(published: Path, tmp_path: Path) -> None:
    from training.export.eight_bit import QuantizationRejected, quantize

    with pytest.raises(QuantizationRejected, match=r"denoise dynamic: psnr .* times as fast") as refused:
        quantize(tiny.recipe(), PACKS, published, tmp_path, precisions=["dynamic"], gain=1e9)
    assert "8 bit is too slow or too inaccurate for denoise/tiny@1" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("lost", "kept"), [(0.09, True), (0.11, False)])
def test_what_loses_too_much_is_not_kept(published: Path, tmp_path: Path, lost: float, kept: bool) -> None:
    from training.export.eight_bit import QuantizationRejected, quantize

    figures = iter([30.0, 30.0 - lost])
    recipe = tiny.recipe(validate=lambda network, packs: {"psnr": next(figures)})
    if kept:
        place = quantize(recipe, PACKS, published, tmp_path, precisions=["dynamic"], gain=0)
        assert repository.open_model(place).quantized[0].figures == {"psnr": (30.0, 30.0 - lost)}
    else:
        with pytest.raises(QuantizationRejected, match=r"30\.000 to 29\.890"):
            quantize(recipe, PACKS, published, tmp_path, precisions=["dynamic"], gain=0)


def test_a_figure_without_a_bound_is_not_risked(published: Path, tmp_path: Path) -> None:
    from training.export.eight_bit import QuantizationRejected, quantize

    recipe = tiny.recipe(validate=lambda network, packs: {"content": 0.8})
    with pytest.raises(QuantizationRejected, match="denoise has no figure with a limit"):
        quantize(recipe, PACKS, published, tmp_path)


@pytest.mark.parametrize("shape", [(5, 7), (1, 3), (4, 4)])
def test_samples_are_reflected_or_cut_to_a_size(shape: Sequence[int]) -> None:
    from training.export.eight_bit import fit_shape

    array = np.arange(16, dtype=np.float32).reshape(4, 4)
    expected = np.pad(array, [(0, 4), (0, 4)], mode="symmetric")[: shape[0], : shape[1]]
    np.testing.assert_array_equal(fit_shape(array, shape), expected)
