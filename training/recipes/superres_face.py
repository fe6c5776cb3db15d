"""`superres/face`: faces four times as large by a convolutional autoencoder.

    python -m training train superres_face                  # a quarter of an hour on two cores
    python -m training evaluate superres_face

Target: 1.5 dB over bicubic on the pack's test faces at their own size (32 -> 128 pixels); its
figures are in `docs/training/results.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training.architectures import skip_autoencoder
from training.data.crops import validation_split
from training.data.imresize import imresize
from training.data.packs import Packs
from training.enlarge import bicubic
from training.evaluation import previews
from training.evaluation.metrics import psnr
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe

SCALE = 4


class SuperresFace(Recipe):
    title = "Faces"
    description = "Enlarges faces four times; works best on upright portraits of about 32 pixels."
    architecture = "Convolutional autoencoder with additive skip connections on the bicubically enlarged picture"
    packs = ("faces",)
    geometry = {"kind": "tiled", "multiple": 2, "tile_size": 256, "tile_step": 32, "halo": None}
    card = (
        "It enlarges clean, upright faces of about 32 pixels. It does not restore old or spoiled portraits: scratches, "
        "grain, blur and JPEG artifacts stay, and some are sharpened; `superres/real` cleans such pictures, but draws "
        "no faces. It may invent details of a face. Do not use it to identify people."
    )

    def build_parts(self) -> dict[str, Part]:
        return {"x4": UpscaleFaces()}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the PSNR of bicubic and of the network on the test faces."""
        ours, bicubic_psnr = _measure(networks["x4"], packs.pictures("faces/test"))
        rows: list[list[str | float]] = [["bicubic", bicubic_psnr], ["superres/face", ours]]
        title = "LFW test faces, x4 (32 to 128 pixels), RGB PSNR in dB"
        return [ResultTable(title, self.command, ["", "PSNR"], rows)]


class UpscaleFaces(Part):
    """Enlarges faces SCALE times."""

    learning_rate = 1e-3
    hours = 0.2

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> image [N,4H,4W,3], not clipped; height and width are even."""
        image = keras.Input((None, None, 3), name="image")
        large = bicubic(image, SCALE)
        # An enlarged picture is smooth: its 2x2 neighbors as channels lose nothing and cost a quarter.
        features = skip_autoencoder.build(ops.space_to_depth(large, 2))
        start = keras.initializers.VarianceScaling(0.01, "fan_in", "truncated_normal")
        last = layers.Conv2D(12, 3, padding="same", kernel_initializer=start, name="exit", dtype="float32")
        added = ops.depth_to_space(last(features), 2)
        return keras.Model({"image": image}, {"image": large + added}, name="superres_face")

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return faces `large` (N,128,128,3) and `small` (N,32,32,3), uint8, half of them mirrored."""
        faces, _ = validation_split(packs.pictures("faces/train"))
        pairs = [(face, _reduce(face)) for face in faces]

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index])
            chosen = [pairs[i] for i in random.integers(len(pairs), size=batch)]
            flip = [slice(None, None, -1 if random.random() < 0.5 else 1) for _ in chosen]
            return {
                "large": np.stack([large[:, way] for (large, _), way in zip(chosen, flip, strict=True)]),
                "small": np.stack([small[:, way] for (_, small), way in zip(chosen, flip, strict=True)]),
            }

        return make

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean absolute error."""
        small, large = (ops.cast(batch[name], "float32") / 255.0 for name in ("small", "large"))
        return ops.mean(ops.abs(network({"image": small})["image"] - large))

    def load_held_out(self, packs: Packs) -> list[np.ndarray]:
        """Return the held-out faces."""
        return validation_split(packs.pictures("faces/train"))[1]

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean RGB PSNR (dB) of the held-out faces, and that of bicubic beside it."""
        ours, bicubic_psnr = _measure(network, self.held_out(packs))
        return {"psnr": ours, "bicubic": bicubic_psnr}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of two held-out faces, each bicubic | ours | the large one."""
        compared = _compare(network, self.held_out(packs)[:12])
        return previews.grid([[*compared[i], *compared[i + 1]] for i in range(0, 12, 2)])


def _reduce(face: np.ndarray) -> np.ndarray:
    """Return a uint8 face a quarter as large, by MATLAB's bicubic reduction."""
    height, width = face.shape[:2]
    return np.clip(np.rint(imresize(face, height // SCALE, width // SCALE)), 0, 255).astype(np.uint8)


def _compare(network: keras.Model, faces: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (bicubic, ours, face) for each, float32 in [0, 1], rounded to 8 bit."""
    found = []
    for face in faces:
        small = _reduce(face).astype(np.float32) / 255
        ours = ops.convert_to_numpy(network({"image": small[None]})["image"])[0]
        plain = imresize(small, *face.shape[:2])
        found.append(
            (*(np.rint(np.clip(p, 0, 1) * 255).astype(np.float32) / 255 for p in (plain, ours)), face / np.float32(255))
        )
    return found


def _measure(network: keras.Model, faces: list[np.ndarray]) -> tuple[float, float]:
    """Return the mean PSNR (dB) of the network and of bicubic."""
    compared = _compare(network, faces)
    ours = float(np.mean([psnr(b * 255, c * 255) for _, b, c in compared]))
    return ours, float(np.mean([psnr(a * 255, c * 255) for a, _, c in compared]))
