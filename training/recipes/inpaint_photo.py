"""`inpaint/photo`: the missing parts of a photograph, by a network that adds to a smooth fill.

    python -m training train inpaint_photo --hours 2        # two cores; 0.4 on an accelerator
    python -m training evaluate inpaint_photo

`docs/training/results.md` has the figures it reached and its targets. Holes are strokes, boxes, the silhouettes of
people, and scratches, drawn anew for every sample; only what is missing counts. The loss adds to the error the distance
of VGG19 activations, so that a fill continues edges instead of fading where it cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from training.architectures import inpainter, vgg19
from training.data.crops import Crops, crop_center, validation_split
from training.data.holes import BINS, holes, scratches
from training.data.packs import Packs
from training.evaluation.inpainting import SCRATCHES, photo_tables, service_tables, silhouettes
from training.evaluation.perception import WEIGHTS
from training.evaluation.tables import ResultTable
from training.inpainting import InpaintPart, feature_distance, hole_loss
from training.recipe import Batch, Part, Recipe

SIZE, HELD_OUT_SIZE = 128, 256
SIZES = ((128, 128), (256, 256))
FEATURES = ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv1")
"""The activations that a fill is compared by; deeper ones cost as much as the network and see a whole crop."""
FEATURE_WEIGHT = 0.15
KINDS = len(BINS) + 1
"""Holes by the share that is missing, and scratches: equally often."""


class InpaintPhoto(Recipe):
    title = "Photographs"
    description = "Fills the missing parts of a photograph from their surroundings."
    architecture = "Push-pull fill, and a residual U-Net of dilated blocks that adds to it"
    packs = ("photos", "photos-any", "person")
    weights = (WEIGHTS,)
    geometry = {"kind": "canonical", "multiple": 64, "canonical_sizes": list(SIZES)}

    def build_parts(self) -> dict[str, Part]:
        return {"inpaint": FillPhotos()}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of inpainting, measured on the test photographs."""
        return photo_tables(partial(FillPhotos().run, networks["inpaint"]), silhouettes(packs, "test"), packs)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables, measured through the service at `url`."""
        return service_tables(url, silhouettes(packs, "test"), packs)


class FillPhotos(InpaintPart):
    """Crops of photographs with holes of every kind."""

    batch = 8
    learning_rate = 8e-4
    steps_per_epoch = 25
    hours = 2.0
    bfloat16 = True
    preview_fill = 255

    def __init__(self) -> None:
        super().__init__()
        self._features: keras.Model | None = None

    def network(self) -> keras.Model:
        """Return a new inpainter."""
        return inpainter.build()

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return crops `image` uint8 (N,size,size,3) and what is missing of them, `mask` uint8 (N,size,size,1)."""
        training, _ = validation_split(packs.pictures("photos/train"))
        self._features = vgg19.build(FEATURES, packs.weights(WEIGHTS))
        crops = Crops(training + packs.pictures("photos-any"), SIZE, batch, seed)
        people = silhouettes(packs, "train")

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index, 1])
            missing = [draw_hole(SIZE, int(random.integers(KINDS)), random, people) for _ in range(batch)]
            return {"image": crops(index), "mask": np.stack(missing)[..., None].astype(np.uint8)}

        return make

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the error in the holes and the distance of the features there."""
        assert self._features is not None, "batches loads it"
        found, image, mask = self.fill(network, batch)
        distance = feature_distance(self._features, found, image, mask)
        return hole_loss(found, image, mask) + FEATURE_WEIGHT * distance

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the centers of held-out pictures, each with a hole, four of a kind."""
        _, kept = validation_split(packs.pictures("photos/train"))
        people = silhouettes(packs, "val")
        return [
            (
                crop_center(picture, HELD_OUT_SIZE),
                draw_hole(HELD_OUT_SIZE, number % KINDS, np.random.default_rng(number), people),
            )
            for number, picture in enumerate(kept[: 4 * KINDS])
        ]


def draw_hole(
    size: int, kind: int, random: np.random.Generator, people: Sequence[np.ndarray], most: int = SCRATCHES
) -> np.ndarray:
    """Return bool (size, size): holes of `BINS[kind]`, or up to `most` scratches where `kind` is no bin."""
    if kind < len(BINS):
        return holes((size, size), BINS[kind], random, people)
    return scratches((size, size), int(random.integers(2, most + 1)), random)
