"""`denoise/digits` (row 14): a denoising convolutional autoencoder, digits under noise of σ = 0.5, clipped.

    python -m training train denoise_digits                 # eight minutes on two cores
    python -m training evaluate denoise_digits

Expected: 19.3 dB on MNIST test (PSNR of the mean squared error); the noisy digits have 9.4, a linear denoiser 17.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training import sheets
from training.architectures import digits_denoiser
from training.data.digits import test_digits, training_digits, validation_digits
from training.data.packs import Packs
from training.metrics import psnr_of_error
from training.recipe import Batch, Part, Recipe
from training.tables import Table

SIGMA = 0.5


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return digits `clean`, float32 (N,28,28,1)."""
    digits = training_digits(packs)
    return lambda index: {"clean": digits[np.random.default_rng([seed, index]).integers(len(digits), size=batch)]}


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """Cross-entropy: like the squared error it is least at the mean, and does not stall where a sigmoid is flat."""
    clean = batch["clean"]
    noisy = ops.clip(clean + SIGMA * keras.random.normal(ops.shape(clean), seed=seed), 0.0, 1.0)
    return ops.mean(ops.binary_crossentropy(clean, network({"image": noisy})["image"]))


def noisy_digits(clean: np.ndarray, seed: int) -> np.ndarray:
    """Return `clean` under noise of SIGMA, clipped to [0, 1], float32."""
    noise = np.random.default_rng(seed).normal(0, SIGMA, clean.shape)
    return np.clip(clean + noise, 0, 1).astype(np.float32)


def run(network: keras.Model, digits: np.ndarray) -> np.ndarray:
    """Return what the network makes of (N,28,28,1), 1000 at a time."""
    pieces = [digits[start : start + 1000] for start in range(0, len(digits), 1000)]
    return np.concatenate([ops.convert_to_numpy(network({"image": piece})["image"]) for piece in pieces])


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the PSNR (dB) of the mean squared error over the held-out digits."""
    clean = validation_digits(packs)
    return {"psnr": psnr_of_error(run(network, noisy_digits(clean, 1)), clean)}


def sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return rows of clean | noisy | restored, four digits a row."""
    clean = validation_digits(packs)[:32]
    noisy = noisy_digits(clean, 1)
    restored = run(network, noisy)
    triples = [sheets.enlarged(part, 3) for i in range(32) for part in (clean[i], noisy[i], restored[i])]
    return sheets.grid([triples[start : start + 12] for start in range(0, 96, 12)])


def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
    """Return the table of row 14: the noisy digits, a linear denoiser, ours."""
    clean = test_digits(packs)
    noisy = noisy_digits(clean, 0)
    rows: list[list[str | float]] = [
        ["noisy", psnr_of_error(noisy, clean)],
        ["linear denoiser (784 to 784, ridge)", psnr_of_error(_linear(training_digits(packs), noisy), clean)],
        ["denoise/digits", psnr_of_error(run(networks["denoise"], noisy), clean)],
    ]
    note = "PSNR of the mean squared error over all test digits. Learned from 9,500 of MNIST's 60,000 digits."
    command = "python -m training evaluate denoise_digits"
    return [Table("MNIST test, noise σ = 0.5 clipped to [0, 1], PSNR in dB", command, ["", "PSNR"], rows, note)]


def _linear(training: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    """Return the answer of the best linear map, found on four noisy copies of the training digits, clipped."""
    clean = np.concatenate([training.reshape(-1, 784)] * 4).astype(np.float64)
    given = _with_one(noisy_digits(clean, 2))
    weights = np.linalg.solve(given.T @ given + np.eye(785), given.T @ clean)
    return np.clip(_with_one(noisy.reshape(-1, 784)) @ weights, 0, 1).reshape(noisy.shape)


def _with_one(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def recipe() -> Recipe:
    part = Part(
        network=digits_denoiser.build,
        loss=loss,
        batches=batches,
        validate=validate,
        sheet=sheet,
        learning_rate=2e-3,
        batch=64,
        hours=8 / 60,
    )
    return Recipe(
        task="denoise",
        name="digits",
        title="Digits under noise",
        description="Noise out of handwritten digits, 28 by 28 pixels, white on black.",
        architecture="Convolutional autoencoder, 32-32-16 down and 16-32-32 up",
        packs=("digits",),
        parts={"denoise": part},
        geometry={"kind": "fixed", "valid_sizes": [(28, 28)]},
        evaluate=evaluate,
        card="Trained at one strength of noise (σ = 0.5 of the full range, clipped); it has no `strength`.",
    )
