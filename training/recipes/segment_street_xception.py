"""`segment/street-xception`: what a street picture shows, by DeepLabV3+ with a reduced Xception.

    python -m training train segment_street_xception --hours 1.5
    python -m training evaluate segment_street_xception

This backbone has no pretrained weights, so it is worse than the MobileNetV2 that starts from a DeepLabV3 of 21 classes.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import deeplab, xception
from training.recipe import Part
from training.recipes.segment_street import CLASSES, SegmentStreet, StreetPart


class SegmentStreetXception(SegmentStreet):
    title = "Streets, Xception"
    description = "Segments street pictures into eleven classes; trained without pretrained weights."
    architecture = "DeepLabV3+ with a reduced Xception, output stride 16, decoder to stride 2"

    def build_parts(self) -> dict[str, Part]:
        return {"segment": XceptionPart()}


class XceptionPart(StreetPart):
    """DeepLabV3+ with a reduced Xception."""

    learning_rate = 1e-3
    narrow = True

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 16.

        `narrow` has a quarter of the weights, and is as good after so short a training.
        """
        image = keras.Input((None, None, 3), name="image")
        if self.narrow:
            logits = deeplab.build(xception.features(image, (32, 48, 96), 3, (96, 160)), len(CLASSES))
        else:
            logits = deeplab.build(xception.features(image), len(CLASSES))
        found = layers.Softmax(dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_street_xception")
