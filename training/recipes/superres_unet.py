"""`superres/unet` (row 4): the founding article's U-Net, enlarging twice.

    python -m training train superres_unet                  # a quarter of an hour on two cores
    python -m training evaluate superres_unet

The picture is enlarged bicubically inside the graph and the U-Net adds what is missing. It works at the large
picture's resolution, which costs four times what `superres/photo` pays for the same layers: kept as a baseline.
"""

from __future__ import annotations

from functools import partial

import keras
from keras import layers

from training.architectures import unet
from training.enlarge import bicubic
from training.recipe import Part, Recipe
from training.recipes import superres_photo

SCALE = 2


def network() -> keras.Model:
    """Return image [N,H,W,3] -> image [N,2H,2W,3], not clipped; height and width are multiples of 8."""
    image = keras.Input((None, None, 3), name="image")
    large = bicubic(image, SCALE)
    start = keras.initializers.VarianceScaling(0.01, "fan_in", "truncated_normal")
    last = layers.Conv2D(3, 1, kernel_initializer=start, name="exit", dtype="float32")
    return keras.Model({"image": image}, {"image": large + last(unet.build(large, filters=8))}, name="superres_unet")


def recipe() -> Recipe:
    from training.evaluate import superresolution

    part = Part(
        network=network,
        loss=partial(superres_photo.loss, scale=SCALE),
        batches=partial(superres_photo.batches, scale=SCALE, patch=40),
        validate=partial(superres_photo.validate, scale=SCALE),
        sheet=partial(superres_photo.sheet, scale=SCALE),
        batch=8,
        learning_rate=1e-3,
        hours=0.2,
    )
    return Recipe(
        task="superres",
        name="unet",
        title="U-Net",
        description="Photographs twice as large, by the U-Net of the founding article; a baseline.",
        architecture="U-Net (8 filters, four levels) on the bicubically enlarged picture",
        packs=("photos",),
        parts={"x2": part},
        geometry={"kind": "tiled", "multiple": 8, "tile_size": 256, "tile_step": 32, "halo": None},
        evaluate=partial(superresolution, recipe="superres_unet"),
    )
