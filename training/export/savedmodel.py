"""A recipe's networks as one SavedModel, one signature a part, weights stored as float16 where that costs nothing.

The weights are `tf.Variable`s of one `tf.Module`, filed as `weights/<part>/<layer>/<index>`, and cast once a call; the
networks are Keras's, called without their own state, so that the graph holds nothing of Keras and no Python.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.data.packs import Packs
from training.export.folding import fold
from training.export.variables import layer_variables
from training.recipe import Recipe
from training.runs import load_trained

FLOAT16_COST = 0.005
FLOAT16_COST_IOU = 0.05
"""How much a figure of `validate` may change before a part keeps float32 weights: dB and levels of 255, and per cent of
IoU, which moves by a hundredth for every few pixels that were undecided."""


class SavedModelMismatch(ArithmeticError):
    """A SavedModel that differs from the network it was made from."""


def export(recipe: Recipe, packs: Packs, out: Path, folder: Path) -> Mapping[str, keras.Model]:
    """Write the SavedModel of the results in `out` to `folder` and return the networks with the weights it stores.

    Raises NotTrained, and SavedModelMismatch when the file's answers differ from the networks' by more than 1e-4.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError("export needs TensorFlow; set KERAS_BACKEND=tensorflow")
    parts = load_trained(recipe, out)
    for name, network in parts.items():
        if not _round_to_float16(recipe, name, network, packs):
            print(f"{recipe.id}:{name}: float16 loses too much accuracy; storing weights as float32", file=sys.stderr)
    networks = {name: fold(network) for name, network in recipe.served_networks(parts, packs).items()}
    save(networks, folder)
    compare(networks, folder, recipe.side(64))
    return networks


def save(networks: Mapping[str, keras.Model], folder: Path) -> None:
    """Write `networks` to `folder`, replacing it: one signature each, weights that 16 bits hold exactly in these.

    What networks share is stored once.
    """
    module = tf.Module()
    module.weights = {}
    signatures = {}
    variables: dict[int, tf.Variable] = {}
    for part, network in networks.items():
        stored: dict[str, dict[str, tf.Variable]] = {}
        for key, variable in layer_variables(network):
            layer, _, index = key.rpartition("/")
            if id(variable) not in variables:
                value = keras.ops.convert_to_numpy(variable)
                variables[id(variable)] = tf.Variable(
                    value, dtype=_smallest_dtype(value), trainable=False, name=f"{part}/{key}"
                )
            stored.setdefault(layer, {})[index] = variables[id(variable)]
        module.weights[part] = stored
        signatures[part] = _signature(network, variables)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)  # where it cannot be, this says so in Python's words
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _smallest_dtype(value: np.ndarray) -> tf.DType:
    """Return the dtype that `value` is stored in: the first of those with 16 bits that holds it, or float32."""
    for dtype in (tf.float16, tf.bfloat16):
        if np.array_equal(value.astype(dtype.as_numpy_dtype).astype(np.float32), value):
            return dtype
    return tf.float32


def _signature(network: keras.Model, stored: Mapping[int, tf.Variable]) -> Any:
    # What is no layer's weight (the state of a dropout's random numbers) is not used where nothing is trained.
    idle = {id(v): keras.ops.convert_to_numpy(v) for v in network.non_trainable_variables if id(v) not in stored}

    def value(variable: keras.Variable) -> Any:
        return idle[id(variable)] if id(variable) in idle else tf.cast(stored[id(variable)], tf.float32)

    def run(**inputs: Any) -> dict[str, Any]:
        trainable = [value(variable) for variable in network.trainable_variables]
        others = [value(variable) for variable in network.non_trainable_variables]
        outputs, _ = network.stateless_call(trainable, others, inputs, training=False)
        return outputs

    specs = {key: tf.TensorSpec(tensor.shape, tf.float32, name=key) for key, tensor in network.input.items()}
    return tf.function(run, autograph=False).get_concrete_function(**specs)


def _round_to_float16(recipe: Recipe, name: str, network: keras.Model, packs: Packs) -> bool:
    """Round the network's weights to float16 unless `validate` changes too much; return whether they are rounded."""
    before = recipe.parts[name].validate(network, packs)
    values = [keras.ops.convert_to_numpy(variable) for _, variable in layer_variables(network)]
    for (_, variable), value in zip(layer_variables(network), values, strict=True):
        variable.assign(value.astype(np.float16).astype(np.float32))
    after = recipe.parts[name].validate(network, packs)
    allowed = {key: FLOAT16_COST_IOU if key == "iou" else FLOAT16_COST for key in before}
    if all(abs(after[key] - before[key]) < allowed[key] for key in before):
        return True
    for (_, variable), value in zip(layer_variables(network), values, strict=True):
        variable.assign(value)
    return False


def compare(networks: Mapping[str, keras.Model], folder: Path, side: int = 64, tolerance: float = 1e-4) -> None:
    """Raise SavedModelMismatch when signatures of the SavedModel in `folder` differ from `networks`, by more than
    `tolerance`, or by as much of the largest number, where that is over 1.

    Compared on pictures of `side` pixels, where the networks leave the size free.
    """
    random = np.random.default_rng(0)
    published = Published(folder)
    for part, network in networks.items():
        inputs = {}
        for key, tensor in network.input.items():
            sizes = [2 if size is None and axis == 0 else size or side for axis, size in enumerate(tensor.shape)]
            inputs[key] = random.random(sizes, dtype=np.float32)
        expected = {key: keras.ops.convert_to_numpy(value) for key, value in network(inputs).items()}
        for key, value in published[part](inputs).items():
            off = float(np.abs(value - expected[key]).max() / max(1.0, np.abs(expected[key]).max()))
            if not off <= tolerance:
                raise SavedModelMismatch(
                    f"signature {part}, output {key}: the SavedModel differs from the network by {off:.2g}"
                )


class Published(Mapping[str, "PublishedPart"]):
    """The signatures of a SavedModel by name, to be called as the networks they were made from."""

    def __init__(self, folder: Path) -> None:
        saved = tf.saved_model.load(str(folder))
        self._parts = {name: PublishedPart(saved, function) for name, function in saved.signatures.items()}

    def __getitem__(self, part: str) -> PublishedPart:
        return self._parts[part]

    def __iter__(self) -> Any:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class PublishedPart:
    """One signature: named float32 arrays in, named float32 arrays out."""

    def __init__(self, saved: Any, function: Any) -> None:
        self._saved = saved  # its functions hold their variables only weakly
        self._function = function

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {key: tf.constant(np.asarray(value, np.float32)) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in self._function(**tensors).items()}

    @property
    def input(self) -> Mapping[str, Any]:
        """The inputs by name, as a Keras model has them."""
        return dict(self._function.structured_input_signature[1])

    def count_params(self) -> int:
        """Return how many numbers the signature's weights are."""
        return sum(int(np.prod(variable.shape)) for variable in self._function.variables)
