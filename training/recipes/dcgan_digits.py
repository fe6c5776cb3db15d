"""`dcgan/digits`: a generator of digits, trained as in the DCGAN paper.

    python -m training train dcgan_digits                   # half an hour on two cores
    python -m training sample dcgan_digits
    python -m training evaluate dcgan_digits

Expected: a grid that reads as digits. The model is not published; `inpaint/digits` searches in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.architectures import dcgan
from training.data.digits import random_digits, training_digits, validation_digits
from training.data.packs import Packs
from training.evaluation import previews
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe


class DcganDigits(Recipe):
    title = "Generated digits"
    description = "Generates handwritten digits."
    architecture = "DCGAN of two doublings from 7×7"
    packs = ("digits",)
    geometry = {"kind": "fixed", "valid_sizes": [(28, 28)]}
    is_generator = True
    publishable = False

    def build_parts(self) -> dict[str, Part]:
        return {"dcgan": DigitsGan()}

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        """Return how far generated digits are from held-out ones, beside how far training ones are."""
        held_out = validation_digits(packs)
        rows: list[list[str | float]] = [
            ["other real digits", distance(training_digits(packs)[: len(held_out)], held_out)],
            ["dcgan/digits", measure(networks["dcgan"], held_out)["distance"]],
        ]
        title = "Sliced Wasserstein distance to held-out digits, hundredths"
        return [ResultTable(title, self.command, ["", "distance"], rows)]

    def sample(self, networks: Mapping[str, keras.Model], seed: int) -> np.ndarray:
        """Return a grid of generated digits, uint8 (height, width, 3)."""
        return draw_samples(networks["dcgan"], seed)


class DigitsGan(Part):
    """A generator and its discriminator, as one network."""

    batch = 64
    learning_rate = 2e-4
    momentum = 0.5
    hours = 0.5

    def network(self) -> keras.Model:
        """Return a new DCGAN for 28×28 pixels in gray."""
        return dcgan.build(28, 1, 32)

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return digits `image`, float32 (N,28,28,1) in [0, 1]."""
        return random_digits(packs, seed, batch, key="image")

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the discriminator's cross entropy and the generator's non-saturating one, in one step for both.

        The gradient of the generator's term in the discriminator is cancelled by the same term with the pictures held
        constant, so that each half follows its own loss only. Real pictures count as 0.9 real (Salimans et al. 2016,
        arXiv 1606.03498).
        """
        generator, discriminator = dcgan.halves(network)
        real = ops.cast(batch["image"], "float32")
        real = real / 255.0 if "uint8" in str(batch["image"].dtype) else real
        z = keras.random.normal((ops.shape(real)[0], 1, 1, dcgan.LATENT), seed=seed)
        fake = generator(z, training=True)
        constant = ops.stop_gradient(fake)
        of_real, of_fake = discriminator(real, training=True), discriminator(constant, training=True)
        own = ops.mean(0.9 * ops.softplus(-of_real) + 0.1 * ops.softplus(of_real)) + ops.mean(ops.softplus(of_fake))
        fooling = ops.mean(ops.softplus(-discriminator(fake, training=True)))
        back = ops.mean(ops.softplus(-of_fake))
        return own + fooling - back + ops.stop_gradient(back)

    def load_held_out(self, packs: Packs) -> np.ndarray:
        """Return the held-out digits."""
        return validation_digits(packs)

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return `measure` on the held-out pictures."""
        return measure(network, self.held_out(packs))

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return a grid of generated digits."""
        return draw_samples(network)


def generate(network: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` pictures of the generator, float32 [0, 1], the same for the same seed."""
    generator, _ = dcgan.halves(network)
    z = np.random.default_rng(seed).standard_normal((count, 1, 1, dcgan.LATENT), np.float32)
    return ops.convert_to_numpy(generator(z, training=False))


def measure(network: keras.Model, held_out: np.ndarray) -> dict[str, float]:
    """Return the distance of generated pictures from real ones, and the shares that the discriminator calls real."""
    fake = generate(network, len(held_out))
    return {
        "distance": distance(fake, held_out),
        "real": float((_logits(network, held_out) > 0).mean()),
        "made": float((_logits(network, fake) > 0).mean()),
    }


def _logits(network: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """Return the discriminator's logits for `pictures` (N,h,w,c) in [0, 1]: above 0 is real."""
    _, discriminator = dcgan.halves(network)
    return ops.convert_to_numpy(discriminator(pictures, training=False)).ravel()


def distance(one: np.ndarray, other: np.ndarray, directions: int = 256) -> float:
    """Return the sliced Wasserstein distance of two sets of pictures, as many of each, in hundredths.

    Mean over random directions of the distance of the sorted projections (Rabin et al. 2012).
    """
    flat = [part.reshape(len(part), -1) for part in (one, other)]
    ways = np.random.default_rng(0).standard_normal((flat[0].shape[1], directions)).astype(np.float32)
    ways /= np.linalg.norm(ways, axis=0)
    first, second = (np.sort(part @ ways, axis=0) for part in flat)
    return 100 * float(np.abs(first - second).mean())


def draw_samples(network: keras.Model, seed: int = 0, factor: int = 2) -> np.ndarray:
    """Return a grid of 8 by 16 generated pictures, uint8 RGB, each pixel `factor` times."""
    pictures = [previews.enlarge(picture, factor) for picture in generate(network, 128, seed)]
    return previews.grid([pictures[start : start + 16] for start in range(0, 128, 16)])
