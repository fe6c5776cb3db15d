"""`segment/street-autoencoder`: the founding article's plain encoder-decoder on street pictures; a baseline.

    python -m training train segment_street_autoencoder --hours 0.25
    python -m training evaluate segment_street_autoencoder

It is blurred on purpose: nothing goes around its code. The article ends with three ReLU channels, colours, which is no
answer to a question about classes; this one ends with the classes' probabilities.
"""

from __future__ import annotations

from dataclasses import replace

import keras
from keras import layers

from training.architectures import plain_autoencoder
from training.recipe import Recipe
from training.recipes import segment_street
from training.recipes.segment_street import CLASSES, DOMAIN


def network() -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 8."""
    image = keras.Input((None, None, 3), name="image")
    logits = layers.Conv2D(len(CLASSES), 1, name="logits", dtype="float32")(plain_autoencoder.build(image))
    found = layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="street_autoencoder")


def recipe() -> Recipe:
    like = segment_street.recipe()
    part = replace(like.parts["segment"], network=network, learning_rate=1e-3, hours=0.25)
    return replace(
        like,
        name="street-autoencoder",
        title="Streets, plain encoder-decoder",
        description="What a street picture shows, by a network without skip connections; a baseline.",
        architecture="Sequential encoder-decoder, 32-64-128, without skip connections",
        parts={"segment": part},
        evaluate=lambda networks, packs: DOMAIN.tables(networks["segment"], packs, "segment_street_autoencoder"),
        evaluate_service=lambda url, packs: DOMAIN.service_tables(url, packs, "segment_street_autoencoder"),
    )
