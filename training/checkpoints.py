"""Weights that a training starts from: read from any of the files that hold some."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np

from training import onnx_weights
from training.recipe import BadInitialWeights
from training.weights import read_weights, take

Convert = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def load_initial_weights(network: keras.Model, source: Path, part_name: str, convert: Convert = dict) -> int:
    """Copy into `network` what `source` has under the same name and shape; return how many variables were copied.

    `source` is a `.weights.h5` of this or another part, the folder of a published model, or an `.npz`: a dataset
    archive's, or one whose arrays are called `layer/variable` as Keras calls them (`block_1_expand/kernel`) once
    `convert` has renamed them.
    Raises BadInitialWeights when it does not exist, holds no weights, or none of them fit.
    """
    if not source.exists():
        raise BadInitialWeights(f"{source} does not exist")
    if source.is_dir():
        from training.export.variables import read_variables

        stored: Mapping[str, np.ndarray] = read_variables(source, part_name)
    else:
        try:
            stored = _read_file(source)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadInitialWeights(f"cannot read weights from {source}: {error}") from None
    taken = take(network, convert(stored))
    if not taken:
        raise BadInitialWeights(
            f"{source} has no variable with a name and shape of {network.name}; use weights of the same architecture"
        )
    return taken


def _read_file(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".onnx":
        return onnx_weights.read(file)
    if file.suffix != ".npz":
        return read_weights(file)
    with np.load(file) as arrays:
        return dict(arrays)
