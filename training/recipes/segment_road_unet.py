"""`segment/road-unet`: roads from aerial pictures, by the U-Net of the article; for comparison, not published.

    python -m training train segment_road_unet --hours 0.5
    python -m training evaluate segment_road_unet

Nothing pretrained, and 145 pictures to learn from: the row beside `segment_road`.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import unet
from training.recipe import Part, Recipe
from training.recipes.segment_road import RoadPart, SegmentRoad


class SegmentRoadUnet(SegmentRoad):
    title = "Roads, U-Net"
    architecture = "U-Net, 16 filters, four levels, batch normalization"

    def build_parts(self) -> dict[str, Part]:
        return {"segment": RoadUnetPart()}

    evaluate_service = Recipe.evaluate_service  # it is not published


class RoadUnetPart(RoadPart):
    """A U-Net trained from nothing."""

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,1]; height and width are multiples of 16."""
        image = keras.Input((None, None, 3), name="image")
        logits = layers.Conv2D(1, 1, name="logits", dtype="float32")(unet.build(image, batch_norm=True))
        found = layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="unet_road")
