"""`dcgan/faces` (row 10): faces out of nothing, as the DCGAN's paper trains it, at its 64 pixels.

    python -m training train dcgan_faces                    # two hours on two cores; 0.2 on an accelerator
    python -m training sample dcgan_faces
    python -m training evaluate dcgan_faces

Wanted: a grid that reads as faces. It is no model to be published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial

import cv2
import keras
import numpy as np

from training.architectures import dcgan
from training.data.crops import validation_split
from training.data.packs import Packs
from training.recipe import Batch, Recipe
from training.recipes import dcgan_digits
from training.recipes.dcgan_digits import distance, figures, grid
from training.tables import Table

SIZE = 64


@lru_cache(maxsize=2)
def faces(packs: Packs) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out faces, uint8 (N,64,64,3)."""
    small = [cv2.resize(face, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for face in packs.pictures("faces/train")]
    training, held_out = validation_split(small)
    return np.stack(training), np.stack(held_out)


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return faces `image`, uint8 (N,64,64,3), half of them mirrored."""
    training, _ = faces(packs)

    def make(index: int) -> Batch:
        random = np.random.default_rng([seed, index])
        chosen = training[random.integers(len(training), size=batch)]
        turned = random.random(batch) < 0.5
        return {"image": np.where(turned[:, None, None, None], chosen[:, :, ::-1], chosen)}

    return make


def _held_out(packs: Packs) -> np.ndarray:
    return (faces(packs)[1] / 255).astype(np.float32)


def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
    """Return how far made faces are from held-out ones, beside how far training ones are."""
    held_out = _held_out(packs)
    others = (faces(packs)[0][: len(held_out)] / 255).astype(np.float32)
    rows: list[list[str | float]] = [
        ["other real faces", distance(others, held_out)],
        ["dcgan/faces", figures(networks["dcgan"], held_out)["distance"]],
    ]
    command = "python -m training evaluate dcgan_faces"
    return [Table("Sliced Wasserstein distance to held-out faces, hundredths", command, ["", "distance"], rows)]


def recipe() -> Recipe:
    like = dcgan_digits.recipe()
    part = replace(
        like.parts["dcgan"],
        network=partial(dcgan.build, SIZE, 3, 24),
        batches=batches,
        validate=lambda network, packs: figures(network, _held_out(packs)),
        sheet=lambda network, packs: grid(network, factor=1),
        batch=32,
        hours=2.0,
    )
    return replace(
        like,
        name="faces",
        title="Faces out of nothing",
        description="Faces of nobody.",
        architecture="DCGAN of four doublings from 4×4",
        packs=("faces",),
        parts={"dcgan": part},
        geometry={"kind": "fixed", "valid_sizes": [(SIZE, SIZE)]},
        evaluate=evaluate,
        sample=lambda networks, seed: grid(networks["dcgan"], seed, factor=1),
    )
