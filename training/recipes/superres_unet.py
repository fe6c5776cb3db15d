"""`superres/unet`: the U-Net of the article on U-Net and autoencoders, enlarging twice.

    python -m training train superres_unet                  # a quarter of an hour on two cores
    python -m training evaluate superres_unet

The picture is enlarged bicubically inside the graph and the U-Net adds what is missing. It works at the large
picture's resolution, which costs four times what `superres/photo` pays for the same layers: kept as a baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from training.architectures import unet
from training.data.packs import Packs
from training.enlarge import bicubic
from training.evaluation import photos
from training.evaluation.tables import ResultTable
from training.recipe import Part, Recipe
from training.recipes.superres_photo import Upscale

SCALE = 2


class SuperresUnet(Recipe):
    title = "U-Net"
    description = "Enlarges photographs two times with a small U-Net; a baseline."
    architecture = "U-Net (8 filters, four levels) on the bicubically enlarged picture"
    packs = ("photos",)
    geometry = {"kind": "tiled", "multiple": 8, "tile_size": 256, "tile_step": 32, "halo": None}

    def build_parts(self) -> dict[str, Part]:
        return {"x2": UpscaleUnet(SCALE, hours=0.2)}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of enlargement, measured on the test photographs."""
        return photos.measure_superresolution(networks, packs, recipe=self.id)


class UpscaleUnet(Upscale):
    """Trained as `superres/photo` is, on smaller crops."""

    patch = 40
    batch = 8
    learning_rate = 1e-3
    steps_per_epoch = 50
    bfloat16 = False

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> image [N,2H,2W,3], not clipped; height and width are multiples of 8."""
        image = keras.Input((None, None, 3), name="image")
        large = bicubic(image, SCALE)
        start = keras.initializers.VarianceScaling(0.01, "fan_in", "truncated_normal")
        last = layers.Conv2D(3, 1, kernel_initializer=start, name="exit", dtype="float32")
        return keras.Model(
            {"image": image}, {"image": large + last(unet.build(large, filters=8))}, name="superres_unet"
        )
