"""A published model with its signatures in 8 bit beside it: converted, calibrated, measured, put in a repository.

Two kinds are tried. `int8`: ranges of activations are found on what training shows the network. `dynamic`: they are
those of what goes through, and what is added or concatenated stays float32, which restoration needs: the picture that
a residual is added to would have 256 steps over a range wider than [0, 1]. The first that is faster and loses less than
`models.manifest.MAX_LOSS` is kept.
"""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from models import manifest as contract
from models import repository
from models.benchmark import speedup
from models.manifest import Geometry, Manifest, QuantizedSignature, Signature, excessive_losses, kind_of
from training.data.packs import Packs
from training.evaluation.tables import ResultTable, report_progress
from training.export.card import card
from training.export.savedmodel import Published, PublishedPart
from training.recipe import Part, Recipe

Precision = Literal["int8", "dynamic"]
PRECISIONS: tuple[Precision, ...] = ("int8", "dynamic")
SAMPLES = 112
"""Training samples by which the ranges of `int8` are found: at most as many, shared among the sizes."""
SAMPLES_OF_SIZE = 8
"""At least as many for each size."""
CALIBRATION_PIXELS = 2_000_000
"""What the samples of all sizes may have together: LiteRT counts ranges slowly."""


class QuantizationRejected(ValueError):
    """A model that is not faster in 8 bit, or loses too much; the message has the figures."""


def quantize(
    recipe: Recipe,
    packs: Packs,
    source: Path,
    root: Path,
    *,
    precisions: Sequence[Precision] = PRECISIONS,
    samples: int = SAMPLES,
    gain: float = 1.0,
) -> Path:
    """Put the published model in `source`, with its 8-bit files, in the repository `root` as the next version.

    Return its folder. A file that is not more than `gain` times as fast as the SavedModel here is not kept. Raises
    QuantizationRejected where no signature has one, MissingPack, RepositoryError.
    """
    old = repository.open_model(source)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(contract.MANIFEST_NAME, "*.tflite"))
        trial = Trial(packs, folder, precisions, samples, gain)
        tried = [_quantize_signature(trial, recipe, name, old) for name in old.signatures]
        quantized = [one for one, _ in tried if one]
        if not quantized:
            raise QuantizationRejected(
                f"8 bit is too slow or too inaccurate for {old.id}: {'; '.join(found for _, found in tried)}"
            )
        version = max(old.version + 1, repository.next_version(old.task, old.name, root))
        today = datetime.datetime.now(datetime.UTC).date()
        changes = {"version": version, "created": today, "quantized": quantized, "files": repository.files(folder)}
        new = Manifest.model_validate(dict(old) | changes)
        tables = [ResultTable(**dict(table)) for table in new.quality]
        (folder / "card.md").write_text(card(recipe, new, tables), encoding="utf-8")
        return repository.publish(new, folder, root)


@dataclass(frozen=True)
class Trial:
    """The arguments of `quantize`, for each signature of the model in `folder`."""

    packs: Packs
    folder: Path
    precisions: Sequence[Precision]
    samples: int
    gain: float


def _quantize_signature(
    trial: Trial, recipe: Recipe, name: str, manifest: Manifest
) -> tuple[QuantizedSignature | None, str]:
    """Return signature `name` in 8 bit, its file written beside the SavedModel, or None; and a line about it."""
    part = recipe.parts.get(name)
    if part is None:
        return None, f"{name} is not measured on its own"
    if not part.eight_bit:
        return None, f"{name} takes no time"
    if not sizes_of(manifest.geometry):
        return None, f"{name} has no fixed tile sizes"
    published = Published(trial.folder)[name]
    before = {figure: value for figure, value in part.validate(published, trial.packs).items() if kind_of(figure)}
    if not before:
        return None, f"{name} has no figure with a limit for the loss"
    found = []
    for precision in trial.precisions:
        quantized, words = _measure(trial, part, published, manifest, name, precision, before)
        found.append(words)
        if quantized:
            break
    return quantized, "; ".join(found)


def _measure(
    trial: Trial,
    part: Part,
    published: PublishedPart,
    manifest: Manifest,
    name: str,
    precision: Precision,
    before: Mapping[str, float],
) -> tuple[QuantizedSignature | None, str]:
    sizes = sizes_of(manifest.geometry)
    count = sample_count(sizes, trial.samples)
    samples = training_samples(part, trial.packs, count) if precision == "int8" else []
    content = convert(trial.folder, name, sizes, samples)
    network = QuantizedModel(content, manifest.signatures[name], sizes, padded=manifest.geometry.kind == "tiled")
    try:
        after = part.validate(network, trial.packs)
    except RuntimeError as error:  # LiteRT has no kernel of this type for one of the operators.
        return None, f"{name} {precision} does not run: {error}"
    noise = network.noise()
    faster = speedup(partial(published, noise), partial(network, noise))
    figures = {figure: (value, after[figure]) for figure, value in before.items()}
    words = ", ".join(f"{figure} {one:.3f} to {other:.3f}" for figure, (one, other) in figures.items())
    words = f"{name} {precision}: {words}, {faster:.2f} times as fast, {len(content) / 1e6:.1f} MB"
    report_progress(words)
    if excessive_losses(figures) or not faster > trial.gain:
        return None, words
    file = f"quantized/{name}.tflite"
    (trial.folder / file).parent.mkdir(exist_ok=True)
    (trial.folder / file).write_bytes(content)
    quantized = QuantizedSignature(
        signature=name,
        file=file,
        bytes=len(content),
        precision=precision,
        sizes=sizes,
        figures=figures,
        faster=round(faster, 2),
        operators=operators(content),
    )
    return quantized, words


def sizes_of(geometry: Geometry) -> list[tuple[int, int]]:
    """Return the sizes (height, width) that are worth a file: the largest tile, or all there are; of any, none."""
    if geometry.kind == "tiled":
        return [(geometry.tile_size, geometry.tile_size)]
    return list(geometry.canonical_sizes if geometry.kind == "canonical" else geometry.valid_sizes)


def sample_count(sizes: Sequence[tuple[int, int]], most: int = SAMPLES) -> int:
    """Return how many samples find the ranges of `sizes`: `most`, or fewer of large sizes."""
    pixels = sum(height * width for height, width in sizes) / len(sizes)
    return min(most, max(SAMPLES_OF_SIZE * len(sizes), int(CALIBRATION_PIXELS / pixels)))


def training_samples(part: Part, packs: Packs, count: int) -> list[dict[str, np.ndarray]]:
    """Return `count` inputs of the published network, batches of one, as training makes them of its pictures."""
    samples: list[dict[str, np.ndarray]] = []
    batches, seed = part.batches(packs, 0, part.batch), keras.random.SeedGenerator(0)
    index = 0
    while len(samples) < count:
        inputs = part.served_inputs(batches(index), seed)
        arrays = {key: keras.ops.convert_to_numpy(value) for key, value in inputs.items()}
        samples += [{key: value[i : i + 1] for key, value in arrays.items()} for i in range(len(arrays["image"]))]
        index += 1
    return samples[:count]


def convert(
    folder: Path, signature: str, sizes: Sequence[tuple[int, int]], samples: Sequence[Mapping[str, np.ndarray]]
) -> bytes:
    """Return a LiteRT file of the SavedModel in `folder`: a function `<height>x<width>` a size, weights stored once.

    With `samples` activations are calibrated by them, each size by its share; without any they are quantized as they
    come.
    """
    saved = tf.saved_model.load(str(folder))
    function = saved.signatures[signature]
    specs = function.structured_input_signature[1]
    module = tf.Module()
    module.saved = saved

    def at(size: tuple[int, int]) -> Any:
        fixed = {key: tf.TensorSpec(_shape(spec.shape, size), tf.float32, name=key) for key, spec in specs.items()}
        return tf.function(lambda **inputs: function(**inputs), autograph=False).get_concrete_function(**fixed)

    def calibration() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for number, size in enumerate(sizes):
            for sample in samples[number :: len(sizes)]:
                yield (
                    _name(size),
                    {key: fit_shape(value, _shape(specs[key].shape, size)) for key, value in sample.items()},
                )

    with tempfile.TemporaryDirectory() as scratch:
        tf.saved_model.save(module, scratch, signatures={_name(size): at(size) for size in sizes})
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=[_name(size) for size in sizes])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if samples:
            converter.representative_dataset = calibration
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def fit_shape(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return float32 `array` cut at the end of each axis, or reflected there, to `shape`."""
    missing = [(0, max(0, wanted - length)) for wanted, length in zip(shape, array.shape, strict=True)]
    return np.pad(array, missing, mode="symmetric")[tuple(slice(wanted) for wanted in shape)].astype(np.float32)


def operators(content: bytes) -> list[str]:
    """Return the names of LiteRT's operators in a file."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    file = schema.Model.GetRootAs(content)
    uses = [file.OperatorCodes(number) for number in range(file.OperatorCodesLength())]
    return sorted({names[max(use.BuiltinCode(), use.DeprecatedBuiltinCode())] for use in uses})


class QuantizedModel:
    """A LiteRT file, to be called as the network it was made from: any batch, one by one.

    Pictures have one of `sizes`, or, where they may be `padded`, are reflected to the one there is.
    """

    def __init__(self, content: bytes, signature: Signature, sizes: Sequence[tuple[int, int]], *, padded: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
        self._signature, self._sizes, self._padded = signature, list(sizes), padded

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        arrays = {key: keras.ops.convert_to_numpy(value) for key, value in inputs.items()}
        answers = [
            self._one({key: value[i : i + 1] for key, value in arrays.items()}) for i in range(len(arrays["image"]))
        ]
        return {key: np.concatenate([answer[key] for answer in answers]) for key in answers[0]}

    @property
    def input(self) -> Mapping[str, Any]:
        """The inputs by name, as a Keras model has them."""
        return self._signature.inputs

    def noise(self) -> dict[str, np.ndarray]:
        """Return inputs of the first size, anything between 0 and 1."""
        random = np.random.default_rng(0)
        shapes = {key: _shape(tensor.shape, self._sizes[0]) for key, tensor in self._signature.inputs.items()}
        return {key: random.random(shape, np.float32) for key, shape in shapes.items()}

    def _one(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        height, width = inputs["image"].shape[1:3]
        size = self._sizes[0] if self._padded else (height, width)
        if size not in self._sizes or height > size[0] or width > size[1]:
            raise QuantizationRejected(
                f"the validation pictures have {height}x{width} pixels, which is not a size of the 8-bit file"
            )
        shapes = {key: _shape(tensor.shape, size) for key, tensor in self._signature.inputs.items()}
        run = self._interpreter.get_signature_runner(_name(size))
        answers = run(**{key: fit_shape(value, shapes[key]) for key, value in inputs.items()})
        scale = self._signature.scale
        for key, tensor in self._signature.outputs.items():
            if tensor.per == "tile":
                answers[key] = answers[key][:, : height * scale, : width * scale]
        return dict(answers)


def _name(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


def _shape(shape: Sequence[int | None], size: tuple[int, int]) -> tuple[int, ...]:
    """Return `shape` for a batch of one, its free height and width being `size`."""
    free = iter(size)
    return (1, *(next(free) if length in (None, -1) else length for length in list(shape)[1:]))
