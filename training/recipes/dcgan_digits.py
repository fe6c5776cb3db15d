"""`dcgan/digits` (row 10): digits out of nothing, as the DCGAN's paper trains it.

    python -m training train dcgan_digits                   # half an hour on two cores
    python -m training sample dcgan_digits
    python -m training evaluate dcgan_digits

Wanted: a grid that reads as digits. It is no model to be published: `inpaint/digits` searches in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from training import sheets
from training.architectures import dcgan
from training.data.digits import training_digits, validation_digits
from training.data.packs import Packs
from training.recipe import Batch, Part, Recipe
from training.tables import Table


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return digits `image`, float32 (N,28,28,1) in [0, 1]."""
    digits = training_digits(packs)
    return lambda index: {"image": digits[np.random.default_rng([seed, index]).integers(len(digits), size=batch)]}


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """The discriminator's cross entropy and the generator's non-saturating one, in one step for both.

    What the generator's term asks of the discriminator is taken back by the same term with the pictures held still:
    their gradients cancel, and each half follows its own loss only. Real pictures count as 0.9 real (Salimans et al.
    2016, arXiv 1606.03498).
    """
    generator, discriminator = dcgan.halves(network)
    real = ops.cast(batch["image"], "float32")
    real = real / 255.0 if "uint8" in str(batch["image"].dtype) else real
    z = keras.random.normal((ops.shape(real)[0], 1, 1, dcgan.LATENT), seed=seed)
    made = generator(z, training=True)
    held = ops.stop_gradient(made)
    of_real, of_made = discriminator(real, training=True), discriminator(held, training=True)
    own = ops.mean(0.9 * ops.softplus(-of_real) + 0.1 * ops.softplus(of_real)) + ops.mean(ops.softplus(of_made))
    fooling = ops.mean(ops.softplus(-discriminator(made, training=True)))
    back = ops.mean(ops.softplus(-of_made))
    return own + fooling - back + ops.stop_gradient(back)


def made(network: keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """Return `count` pictures of the generator, float32 [0, 1], the same for the same seed."""
    generator, _ = dcgan.halves(network)
    z = np.random.default_rng(seed).standard_normal((count, 1, 1, dcgan.LATENT), np.float32)
    return ops.convert_to_numpy(generator(z, training=False))


def logits(network: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """Return what the discriminator says of `pictures` (N,h,w,c) in [0, 1]: above 0 is real."""
    _, discriminator = dcgan.halves(network)
    return ops.convert_to_numpy(discriminator(pictures, training=False)).ravel()


def figures(network: keras.Model, held_out: np.ndarray) -> dict[str, float]:
    """Return how far made pictures are from real ones, and what the discriminator says of both, as shares."""
    fake = made(network, len(held_out))
    return {
        "distance": distance(fake, held_out),
        "real": float((logits(network, held_out) > 0).mean()),
        "made": float((logits(network, fake) > 0).mean()),
    }


def distance(one: np.ndarray, other: np.ndarray, directions: int = 256) -> float:
    """Return the sliced Wasserstein distance of two sets of pictures, as many of each, in hundredths.

    Mean over random directions of the distance of the sorted projections (Rabin et al. 2012).
    """
    flat = [part.reshape(len(part), -1) for part in (one, other)]
    ways = np.random.default_rng(0).standard_normal((flat[0].shape[1], directions)).astype(np.float32)
    ways /= np.linalg.norm(ways, axis=0)
    first, second = (np.sort(part @ ways, axis=0) for part in flat)
    return 100 * float(np.abs(first - second).mean())


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return `figures` on the held-out digits."""
    return figures(network, validation_digits(packs))


def grid(network: keras.Model, seed: int = 0, factor: int = 2) -> np.ndarray:
    """Return a grid of 8 by 16 made pictures, uint8 RGB, each pixel `factor` times."""
    pictures = [sheets.enlarged(picture, factor) for picture in made(network, 128, seed)]
    return sheets.grid([pictures[start : start + 16] for start in range(0, 128, 16)])


def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
    """Return how far made digits are from held-out ones, beside how far training ones are."""
    held_out = validation_digits(packs)
    rows: list[list[str | float]] = [
        ["other real digits", distance(training_digits(packs)[: len(held_out)], held_out)],
        ["dcgan/digits", figures(networks["dcgan"], held_out)["distance"]],
    ]
    command = "python -m training evaluate dcgan_digits"
    return [Table("Sliced Wasserstein distance to held-out digits, hundredths", command, ["", "distance"], rows)]


def recipe() -> Recipe:
    part = Part(
        network=partial(dcgan.build, 28, 1, 32),
        loss=loss,
        batches=batches,
        validate=validate,
        sheet=lambda network, packs: grid(network),
        batch=64,
        learning_rate=2e-4,
        momentum=0.5,
        hours=0.5,
    )
    return Recipe(
        task="dcgan",
        name="digits",
        title="Digits out of nothing",
        description="Digits that nobody wrote.",
        architecture="DCGAN of two doublings from 7×7",
        packs=("digits",),
        parts={"dcgan": part},
        geometry={"kind": "fixed", "valid_sizes": [(28, 28)]},
        evaluate=evaluate,
        sample=lambda networks, seed: grid(networks["dcgan"], seed),
    )
