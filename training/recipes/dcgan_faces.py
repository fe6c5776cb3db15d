"""`dcgan/faces`: a generator of faces, trained as in the DCGAN paper, at its 64 pixels.

    python -m training train dcgan_faces                    # two hours on two cores; 0.2 on an accelerator
    python -m training sample dcgan_faces
    python -m training evaluate dcgan_faces

Expected: a grid that reads as faces. The model is not published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import keras
import numpy as np

from training.architectures import dcgan
from training.data.crops import validation_split
from training.data.packs import Packs
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe
from training.recipes.dcgan_digits import DigitsGan, distance, draw_samples, measure

SIZE = 64


class DcganFaces(Recipe):
    title = "Generated faces"
    description = "Generates faces of people who do not exist."
    architecture = "DCGAN of four doublings from 4×4"
    packs = ("faces",)
    geometry = {"kind": "fixed", "valid_sizes": [(SIZE, SIZE)]}
    is_generator = True
    publishable = False

    def build_parts(self) -> dict[str, Part]:
        return {"dcgan": FacesGan()}

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        """Return how far generated faces are from held-out ones, beside how far training ones are."""
        training, held_out = _split_faces(packs)
        rows: list[list[str | float]] = [
            ["other real faces", distance(_to_float(training[: len(held_out)]), _to_float(held_out))],
            ["dcgan/faces", measure(networks["dcgan"], _to_float(held_out))["distance"]],
        ]
        title = "Sliced Wasserstein distance to held-out faces, hundredths"
        return [ResultTable(title, self.command, ["", "distance"], rows)]

    def sample(self, networks: Mapping[str, keras.Model], seed: int) -> np.ndarray:
        """Return a grid of generated faces, uint8 (height, width, 3)."""
        return draw_samples(networks["dcgan"], seed, factor=1)


class FacesGan(DigitsGan):
    """The same losses, on faces."""

    batch = 32
    hours = 2.0

    def network(self) -> keras.Model:
        """Return a new DCGAN for faces of SIZE×SIZE pixels in color."""
        return dcgan.build(SIZE, 3, 24)

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return faces `image`, uint8 (N,64,64,3), half of them mirrored."""
        training, _ = _split_faces(packs)

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index])
            chosen = training[random.integers(len(training), size=batch)]
            mirrored = random.random(batch) < 0.5
            return {"image": np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)}

        return make

    def load_held_out(self, packs: Packs) -> np.ndarray:
        """Return the held-out faces, float32."""
        return _to_float(_split_faces(packs)[1])

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return a grid of generated faces."""
        return draw_samples(network, factor=1)


def _split_faces(packs: Packs) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out faces, uint8 (N,64,64,3)."""
    small = [cv2.resize(face, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for face in packs.pictures("faces/train")]
    training, held_out = validation_split(small)
    return np.stack(training), np.stack(held_out)


def _to_float(faces: np.ndarray) -> np.ndarray:
    return (faces / 255).astype(np.float32)
