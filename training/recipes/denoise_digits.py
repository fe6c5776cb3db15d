"""`denoise/digits`: a denoising convolutional autoencoder, digits under noise of σ = 0.5, clipped.

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

from training.architectures import digits_denoiser
from training.data.digits import random_digits, test_digits, training_digits, validation_digits
from training.data.packs import Packs
from training.evaluation import previews
from training.evaluation.metrics import psnr_of_error
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe

SIGMA = 0.5


class DenoiseDigits(Recipe):
    title = "Digits under noise"
    description = "Removes noise from handwritten digits of 28×28 pixels, white on black."
    architecture = "Convolutional autoencoder, 32-32-16 down and 16-32-32 up"
    packs = ("digits",)
    geometry = {"kind": "fixed", "valid_sizes": [(28, 28)]}
    card = "Trained at one strength of noise (σ = 0.5 of the full range, clipped); it has no `strength`."

    def build_parts(self) -> dict[str, Part]:
        return {"denoise": Denoise()}

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        """Return the PSNR of the noisy digits, of a linear denoiser, and of the network."""
        clean = test_digits(packs)
        noisy = add_noise(clean, 0)
        rows: list[list[str | float]] = [
            ["noisy", psnr_of_error(noisy, clean)],
            ["linear denoiser (784 to 784, ridge)", psnr_of_error(_denoise_linearly(packs, noisy), clean)],
            ["denoise/digits", psnr_of_error(run(networks["denoise"], noisy), clean)],
        ]
        note = "PSNR of the mean squared error over all test digits. Learned from 9,500 of MNIST's 60,000 digits."
        title = "MNIST test, noise σ = 0.5 clipped to [0, 1], PSNR in dB"
        return [ResultTable(title, self.command, ["", "PSNR"], rows, note)]


class DigitsPart(Part):
    """A network from digits to digits."""

    batch = 64

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return digits `clean`, float32 (N,28,28,1)."""
        return random_digits(packs, seed, batch, key="clean")

    def degrade(self, clean: np.ndarray) -> np.ndarray:
        """Return the network's input for held-out digits."""
        return clean

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the PSNR (dB) of the mean squared error over the held-out digits."""
        clean = validation_digits(packs)
        return {"psnr": psnr_of_error(run(network, self.degrade(clean)), clean)}


class Denoise(DigitsPart):
    """Digits under noise of SIGMA."""

    learning_rate = 2e-3
    hours = 8 / 60

    def network(self) -> keras.Model:
        """Return a new denoiser for digits."""
        return digits_denoiser.build()

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the cross-entropy: like the squared error it is least at the mean, but a sigmoid does not stall it."""
        clean = batch["clean"]
        noisy = ops.clip(clean + SIGMA * keras.random.normal(ops.shape(clean), seed=seed), 0.0, 1.0)
        return ops.mean(ops.binary_crossentropy(clean, network({"image": noisy})["image"]))

    def degrade(self, clean: np.ndarray) -> np.ndarray:
        """Return the digits with noise."""
        return add_noise(clean, 1)

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of clean | noisy | restored, four digits a row."""
        clean = validation_digits(packs)[:32]
        noisy = add_noise(clean, 1)
        restored = run(network, noisy)
        triples = [previews.enlarge(part, 3) for i in range(32) for part in (clean[i], noisy[i], restored[i])]
        return previews.grid([triples[start : start + 12] for start in range(0, 96, 12)])


def add_noise(clean: np.ndarray, seed: int) -> np.ndarray:
    """Return `clean` under noise of SIGMA, clipped to [0, 1], float32."""
    noise = np.random.default_rng(seed).normal(0, SIGMA, clean.shape)
    return np.clip(clean + noise, 0, 1).astype(np.float32)


def run(network: keras.Model, digits: np.ndarray) -> np.ndarray:
    """Return the network's output for (N,28,28,1), 1000 at a time."""
    pieces = [digits[start : start + 1000] for start in range(0, len(digits), 1000)]
    return np.concatenate([ops.convert_to_numpy(network({"image": piece})["image"]) for piece in pieces])


def _denoise_linearly(packs: Packs, noisy: np.ndarray) -> np.ndarray:
    """Return `noisy` through the best linear map, found on four noisy copies of the training digits, clipped."""
    clean = np.concatenate([training_digits(packs).reshape(-1, 784)] * 4).astype(np.float64)
    inputs = _append_one(add_noise(clean, 2))
    weights = np.linalg.solve(inputs.T @ inputs + np.eye(785), inputs.T @ clean)
    return np.clip(_append_one(noisy.reshape(-1, 784)) @ weights, 0, 1).reshape(noisy.shape)


def _append_one(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
