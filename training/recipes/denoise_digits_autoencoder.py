"""`denoise/digits-autoencoder` (row 13): digits through a code of 4x4x8 numbers and back.

    python -m training train denoise_digits_autoencoder     # half an hour on two busy cores
    python -m training evaluate denoise_digits_autoencoder

Expected: 20.4 dB on MNIST test (PSNR of the mean squared error); a principal component analysis with as many
numbers reaches 23.7 with twenty times the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training import sheets
from training.architectures import digits_autoencoder
from training.data.digits import test_digits, training_digits, validation_digits
from training.data.packs import Packs
from training.metrics import psnr_of_error
from training.recipe import Batch, Part, Recipe
from training.tables import Table

CODE = 128


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return digits `clean`, float32 (N,28,28,1)."""
    digits = training_digits(packs)
    return lambda index: {"clean": digits[np.random.default_rng([seed, index]).integers(len(digits), size=batch)]}


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """Cross-entropy, which does not stall where a sigmoid is flat, and the squared error that the table has."""
    restored = network({"image": batch["clean"]})["image"]
    error = ops.mean(ops.square(restored - batch["clean"]))
    return ops.mean(ops.binary_crossentropy(batch["clean"], restored)) + 10 * error


def run(network: keras.Model, digits: np.ndarray) -> np.ndarray:
    """Return what the network makes of (N,28,28,1), 1000 at a time."""
    pieces = [digits[start : start + 1000] for start in range(0, len(digits), 1000)]
    return np.concatenate([ops.convert_to_numpy(network({"image": piece})["image"]) for piece in pieces])


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the PSNR (dB) of the mean squared error over the held-out digits."""
    clean = validation_digits(packs)
    return {"psnr": psnr_of_error(run(network, clean), clean)}


def sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return pairs of digit | digit through the code, six pairs a row."""
    clean = validation_digits(packs)[:48]
    restored = run(network, clean)
    pairs = [sheets.enlarged(part, 3) for i in range(48) for part in (clean[i], restored[i])]
    return sheets.grid([pairs[start : start + 12] for start in range(0, 96, 12)])


def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
    """Return the table of row 13: mean digit, principal components with as many numbers, ours."""
    training, clean = training_digits(packs), test_digits(packs)
    mean = training.mean(axis=0, keepdims=True)
    network = networks["denoise"]
    rows: list[list[str | float]] = [
        ["mean digit", psnr_of_error(np.broadcast_to(mean, clean.shape), clean), "784"],
        [f"PCA, {CODE} numbers", psnr_of_error(_principal(training, clean), clean), str(784 * (CODE + 1))],
        ["denoise/digits-autoencoder", psnr_of_error(run(network, clean), clean), str(network.count_params())],
    ]
    note = "PSNR of the mean squared error over all test digits. Learned from 9,500 of MNIST's 60,000 digits."
    command = "python -m training evaluate denoise_digits_autoencoder"
    title = f"MNIST test through {CODE} numbers and back, PSNR in dB"
    return [Table(title, command, ["", "PSNR", "weights"], rows, note)]


def _principal(training: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Return `digits` through the first CODE principal components of `training`, clipped."""
    rows = training.reshape(-1, 784).astype(np.float64)
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    basis = vectors[:, -CODE:]
    restored = (digits.reshape(-1, 784) - mean) @ basis @ basis.T + mean
    return np.clip(restored, 0, 1).reshape(digits.shape)


def recipe() -> Recipe:
    part = Part(
        network=digits_autoencoder.build,
        loss=loss,
        batches=batches,
        validate=validate,
        sheet=sheet,
        learning_rate=5e-3,
        batch=64,
        hours=0.4,
    )
    return Recipe(
        task="denoise",
        name="digits-autoencoder",
        title="Digits through a small code",
        description="Handwritten digits, 28 by 28 pixels, squeezed into 128 numbers and unfolded again.",
        architecture="Convolutional autoencoder, 16-8-8 down to 4x4x8 and 8-8-16 up",
        packs=("digits",),
        parts={"denoise": part},
        geometry={"kind": "fixed", "valid_sizes": [(28, 28)]},
        evaluate=evaluate,
        card="Trained on clean digits: it simplifies a digit, and takes out noise only by the way.",
    )
