"""A recipe that learns something in seconds, from pictures made by code: for tests of the loop on any backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training.data.packs import Packs
from training.evaluation import previews
from training.evaluation.metrics import psnr
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe

SIZE = 16


def network() -> keras.Model:
    """Return image [N,H,W,3] and level [N,1,1,1] -> image [N,H,W,3]."""
    image, level = keras.Input((None, None, 3), name="image"), keras.Input((1, 1, 1), name="level")
    plane = ops.zeros_like(image[..., :1]) + level
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(ops.concatenate([image, plane], axis=-1))
    x = layers.Dropout(0.1, name="drop")(x)
    x = layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros", name="last")(x)
    return keras.Model({"image": image, "level": level}, {"image": image + x}, name="tiny")


def scenes(seed: int, count: int) -> np.ndarray:
    """Return smooth pictures, float32 (count, SIZE, SIZE, 3)."""
    random = np.random.default_rng(seed)
    corners = random.random((count, 2, 2, 3))
    along = np.linspace(0, 1, SIZE)
    ends = np.stack([1 - along, along])
    return np.einsum("ij,nikc,kl->njlc", ends, corners, ends).astype(np.float32)


def restored(network: keras.Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (clean, noisy, restored) of eight pictures that training never sees."""
    clean = scenes(10**6, 8)
    noisy = (clean + np.random.default_rng(0).normal(0, 0.2, clean.shape)).astype(np.float32)
    inputs = {"image": noisy, "level": np.full((8, 1, 1, 1), 0.2, np.float32)}
    return clean, noisy, ops.convert_to_numpy(network(inputs)["image"])


class TinyRecipe(Recipe):
    title = "Tiny"
    description = "For tests."
    architecture = "Two convolutions"
    packs = ()
    geometry = {"kind": "tiled", "multiple": 1, "tile_size": 64, "tile_step": 16, "halo": None}

    def build_parts(self) -> dict[str, Part]:
        return {"denoise": TinyPart()}

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        clean, noisy, result = restored(networks["denoise"])
        rows: list[list[str | float]] = [
            ["noisy", psnr(noisy, clean, peak=1.0)],
            ["tiny", psnr(result, clean, peak=1.0)],
        ]
        return [ResultTable("Tiny", "pytest", ["", "PSNR"], rows)]


class TinyPart(Part):
    learning_rate = 1e-2
    steps_per_epoch = 10
    batch = 8

    def __init__(self, **changes: Any) -> None:
        """Change attributes or methods (functions without `self`)."""
        super().__init__()
        vars(self).update(changes)

    def network(self) -> keras.Model:
        return network()

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        return lambda index: {"clean": scenes(seed + index, batch)}

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        clean = batch["clean"]
        noisy = clean + 0.2 * keras.random.normal(ops.shape(clean), seed=seed)
        level = ops.zeros_like(clean[:, :1, :1, :1]) + 0.2
        return ops.mean(ops.square(network({"image": noisy, "level": level})["image"] - clean))

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        clean, _, result = restored(network)
        return {"psnr": psnr(result, clean, peak=1.0)}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        return previews.grid([list(row) for row in zip(*restored(network), strict=True)])


def recipe(parts: Mapping[str, Part] | None = None, **changes: Any) -> Recipe:
    """Return the recipe with its part changed, or with other `parts`."""
    tiny = TinyRecipe("denoise_tiny")
    tiny.parts = dict(parts or {"denoise": TinyPart(**changes)})
    return tiny
