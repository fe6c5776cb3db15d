"""`inpaint/mountain`: square holes in pictures of mountains, by the network of the article on inpainting.

    python -m training train inpaint_mountain --hours 0.5
    python -m training evaluate inpaint_mountain

Target: 0.7 dB over the best classical method in holes of 22 px at 100 px, which are the article's 50 at 228;
`docs/training/results.md` has the figures it reached. It is given the mask, and adds to a smooth fill;
`inpaint_mountain_autoencoder` is the article's own network, which has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training.architectures import valid_autoencoder
from training.architectures.inpainter import PushPull
from training.data.crops import validation_split
from training.data.packs import Packs
from training.evaluation.inpainting import CLASSICAL, Fill, in_hole_psnr
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress
from training.inpainting import InpaintPart
from training.recipe import Batch, Part, Recipe

SIZE, HOLE = 100, 22


class InpaintMountain(Recipe):
    title = "Mountains"
    description = "Fills holes in small pictures of mountains."
    architecture = "Autoencoder of valid convolutions with skip connections, over a push-pull fill, with the mask"
    packs = ("mountain",)
    geometry = {"kind": "whole", "size_rule": {"modulus": 8, "remainder": 4}}

    def build_parts(self) -> dict[str, Part]:
        return {"inpaint": FillMountains()}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return what the classical methods and the network reach."""
        part = self.parts["inpaint"]
        assert isinstance(part, InpaintPart)
        fills: dict[str, Fill] = {**CLASSICAL, f"inpaint/{self.name}": partial(part.run, networks["inpaint"])}
        return measure(fills, packs, self.command)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return what this model and `photo` reach in the service at `url`. Raises ServiceProblem."""
        fills: dict[str, Fill] = {
            f"inpaint/{model}, served": partial(Service(url).inpaint, method="neural", model=model)
            for model in (self.name, "photo")
        }
        return measure(fills, packs, f"{self.command} --url {url}")


class FillMountains(InpaintPart):
    """Mountains with a square hole."""

    learning_rate = 1e-3
    hours = 0.5

    def network(self) -> keras.Model:
        """Return {image [N,H,W,3], mask [N,H,W,1]} -> image [N,H,W,3]; height and width leave 4 when divided by 8."""
        image, mask = keras.Input((None, None, 3), name="image"), keras.Input((None, None, 1), name="mask")
        fill = PushPull(name="fill")(image, mask)
        features = valid_autoencoder.build(ops.concatenate([fill - 0.5, mask], axis=-1))
        start = keras.initializers.VarianceScaling(0.01, "fan_in", "truncated_normal")
        added = layers.Conv2D(3, 3, padding="same", kernel_initializer=start, name="exit", dtype="float32")(features)
        return keras.Model({"image": image, "mask": mask}, {"image": fill + mask * added}, name="inpaint_mountain")

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `image` uint8 (N,100,100,3), half of them mirrored, and `mask` uint8 (N,100,100,1)."""
        mountains, _ = validation_split(packs.pictures("mountain/train"))

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index])
            chosen = [mountains[i] for i in random.integers(len(mountains), size=batch)]
            pictures = [picture[:, :: 1 if random.random() < 0.5 else -1] for picture in chosen]
            masks = [draw_square(random)[..., None].astype(np.uint8) for _ in chosen]
            return {"image": np.stack(pictures), "mask": np.stack(masks)}

        return make

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return held-out pictures, each with the mask of its hole."""
        return _pair_with_holes(validation_split(packs.pictures("mountain/train"))[1])


def draw_square(random: np.random.Generator) -> np.ndarray:
    """Return bool (SIZE, SIZE) with one square hole of HOLE pixels."""
    missing = np.zeros((SIZE, SIZE), bool)
    top, left = random.integers(SIZE - HOLE + 1, size=2)
    missing[top : top + HOLE, left : left + HOLE] = True
    return missing


def _pair_with_holes(pictures: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(picture, draw_square(np.random.default_rng(number))) for number, picture in enumerate(pictures)]


def measure(fills: Mapping[str, Fill], packs: Packs, command: str) -> list[ResultTable]:
    """Return what `fills` reach on mountain/test, in dB inside the holes."""
    report_progress(command)
    rows: list[list[str | float]] = []
    samples = _pair_with_holes(packs.pictures("mountain/test"))
    for name, fill in fills.items():
        values = []
        for picture, missing in samples:
            damaged = np.where(missing[..., None], np.uint8(0), picture)
            values.append(in_hole_psnr(fill(damaged, missing), picture, missing))
        rows.append([name, float(np.mean(values))])
    return [ResultTable(f"mountain/test, holes of {HOLE}×{HOLE} px, dB inside", command, ["", "PSNR"], rows)]
