"""`segment/road-unet`: roads from aerial pictures, by the founding article's U-Net; for comparison, not published.

    python -m training train segment_road_unet --hours 0.5
    python -m training evaluate segment_road_unet

Nothing pretrained, and 145 pictures to learn from: the row beside `segment_road`.
"""

from __future__ import annotations

from dataclasses import replace

import keras
from keras import layers

from training.architectures import unet
from training.recipe import Recipe
from training.recipes import segment_road
from training.recipes.segment_road import DOMAIN


def network() -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,1]; height and width are multiples of 16."""
    image = keras.Input((None, None, 3), name="image")
    logits = layers.Conv2D(1, 1, name="logits", dtype="float32")(unet.build(image, batch_norm=True))
    found = layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="unet_road")


def recipe() -> Recipe:
    like = segment_road.recipe()
    return replace(
        like,
        name="road-unet",
        title="Roads, U-Net",
        architecture="U-Net, 16 filters, four levels, batch normalisation",
        parts={"segment": DOMAIN.part(network, batch=4, learning_rate=1e-3, hours=0.5)},
        evaluate=lambda networks, packs: DOMAIN.tables(networks["segment"], packs, "segment_road_unet"),
        evaluate_service=None,
    )
