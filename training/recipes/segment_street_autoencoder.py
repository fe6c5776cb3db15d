"""`segment/street-autoencoder`: the plain encoder-decoder of the article on segmentation, on street pictures.

    python -m training train segment_street_autoencoder --hours 0.25
    python -m training evaluate segment_street_autoencoder

Its output is blurred, as it has no skip connections. The article's network ends with three ReLU channels, a color; this
one ends with the classes' probabilities.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import plain_autoencoder
from training.recipe import Part
from training.recipes.segment_street import CLASSES, SegmentStreet, StreetPart


class SegmentStreetAutoencoder(SegmentStreet):
    title = "Streets, plain encoder-decoder"
    description = "Segments street pictures into eleven classes with a network without skip connections; a baseline."
    architecture = "Sequential encoder-decoder, 32-64-128, without skip connections"

    def build_parts(self) -> dict[str, Part]:
        return {"segment": AutoencoderPart()}


class AutoencoderPart(StreetPart):
    """An encoder-decoder without skip connections."""

    learning_rate = 1e-3
    hours = 0.25

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 8."""
        image = keras.Input((None, None, 3), name="image")
        logits = layers.Conv2D(len(CLASSES), 1, name="logits", dtype="float32")(plain_autoencoder.build(image))
        found = layers.Softmax(dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="street_autoencoder")
