"""`denoise/digits-autoencoder`: digits through a code of 4x4x8 numbers and back.

    python -m training train denoise_digits_autoencoder     # half an hour on two busy cores
    python -m training evaluate denoise_digits_autoencoder

Expected: 20.4 dB on MNIST test (PSNR of the mean squared error); a principal component analysis with as many
numbers reaches 23.7 with twenty times the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.architectures import digits_autoencoder
from training.data.digits import test_digits, training_digits, validation_digits
from training.data.packs import Packs
from training.evaluation import previews
from training.evaluation.metrics import psnr_of_error
from training.evaluation.tables import ResultTable
from training.recipe import Part, Recipe
from training.recipes.denoise_digits import DigitsPart, run

CODE = 128


class DenoiseDigitsAutoencoder(Recipe):
    title = "Digits through a small code"
    description = (
        "Removes noise from handwritten digits of 28×28 pixels with an autoencoder of 128 latent values; a baseline."
    )
    architecture = "Convolutional autoencoder, 16-8-8 down to 4x4x8 and 8-8-16 up"
    packs = ("digits",)
    geometry = {"kind": "fixed", "valid_sizes": [(28, 28)]}
    card = "Trained on clean digits: it simplifies a digit, and takes out noise only by the way."

    def build_parts(self) -> dict[str, Part]:
        return {"denoise": Autoencoder()}

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        """Return the PSNR of the mean digit, of principal components with as many numbers, and of the network."""
        training, clean = training_digits(packs), test_digits(packs)
        mean = training.mean(axis=0, keepdims=True)
        network = networks["denoise"]
        rows: list[list[str | float]] = [
            ["mean digit", psnr_of_error(np.broadcast_to(mean, clean.shape), clean), "784"],
            [f"PCA, {CODE} numbers", psnr_of_error(_project(training, clean), clean), str(784 * (CODE + 1))],
            ["denoise/digits-autoencoder", psnr_of_error(run(network, clean), clean), str(network.count_params())],
        ]
        note = "PSNR of the mean squared error over all test digits. Learned from 9,500 of MNIST's 60,000 digits."
        title = f"MNIST test through {CODE} numbers and back, PSNR in dB"
        return [ResultTable(title, self.command, ["", "PSNR", "weights"], rows, note)]


class Autoencoder(DigitsPart):
    """Clean digits in, the same digits out."""

    learning_rate = 5e-3
    hours = 0.4

    def network(self) -> keras.Model:
        """Return a new autoencoder for digits."""
        return digits_autoencoder.build()

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the cross-entropy, which a sigmoid does not stall, and the squared error that the table has."""
        restored = network({"image": batch["clean"]})["image"]
        error = ops.mean(ops.square(restored - batch["clean"]))
        return ops.mean(ops.binary_crossentropy(batch["clean"], restored)) + 10 * error

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return pairs of digit | digit through the code, six pairs a row."""
        clean = validation_digits(packs)[:48]
        restored = run(network, clean)
        pairs = [previews.enlarge(part, 3) for i in range(48) for part in (clean[i], restored[i])]
        return previews.grid([pairs[start : start + 12] for start in range(0, 96, 12)])


def _project(training: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Return `digits` through the first CODE principal components of `training`, clipped."""
    rows = training.reshape(-1, 784).astype(np.float64)
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    basis = vectors[:, -CODE:]
    restored = (digits.reshape(-1, 784) - mean) @ basis @ basis.T + mean
    return np.clip(restored, 0, 1).reshape(digits.shape)
