"""`segment/street-xception`: what a street picture shows, by DeepLabV3+ with a reduced Xception.

    python -m training train segment_street_xception --hours 1.5
    python -m training evaluate segment_street_xception

Nothing pretrained is at hand for this backbone, so it loses to MobileNetV2 that starts from a DeepLabV3 of 21 classes.
"""

from __future__ import annotations

from dataclasses import replace

import keras
from keras import layers

from training.architectures import deeplab, xception
from training.recipe import Recipe
from training.recipes import segment_street
from training.recipes.segment_street import CLASSES, DOMAIN


def network(narrow: bool = True) -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 16.

    `narrow`: a quarter of the weights, which is as good after so short a training.
    """
    image = keras.Input((None, None, 3), name="image")
    if narrow:
        logits = deeplab.build(xception.features(image, (32, 48, 96), 3, (96, 160)), len(CLASSES))
    else:
        logits = deeplab.build(xception.features(image), len(CLASSES))
    found = layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_street_xception")


def recipe() -> Recipe:
    like = segment_street.recipe()
    part = replace(like.parts["segment"], network=network, learning_rate=1e-3)
    return replace(
        like,
        name="street-xception",
        title="Streets, Xception",
        description="What a street picture shows, pixel by pixel: eleven classes; trained from nothing.",
        architecture="DeepLabV3+ with a reduced Xception, output stride 16, decoder to stride 2",
        parts={"segment": part},
        evaluate=lambda networks, packs: DOMAIN.tables(networks["segment"], packs, "segment_street_xception"),
        evaluate_service=lambda url, packs: DOMAIN.service_tables(url, packs, "segment_street_xception"),
    )
