"""`segment/road`: roads from aerial pictures, by a U-Net whose way down is a MobileNetV2.

    python -m training train segment_road --from WEIGHTS --hours 0.5    # WEIGHTS: docs/data.md
    python -m training evaluate segment_road

`docs/training/results.md` has the figures it reached and its targets; `segment_road_unet` is the article's
U-Net. Aerial pictures have no upper side, so views are rotated, too.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import mobilenet_v2, unet
from training.recipe import Part
from training.segmentation import SegmentationDataset, SegmentationPart, SegmentationRecipe

CLASSES = ((0, "background", (0, 0, 0)), (1, "road", (250, 200, 40)))
DATASET = SegmentationDataset(
    "road",
    CLASSES,
    size=(256, 256),
    canonical=(),
    scales=(0.8, 1.25),
    labels="masks",
    turn=True,
    baselines=(("U-Nets on Massachusetts Roads, about", 64.0),),
    note="Massachusetts Roads has 1,108 pictures of 1500×1500 to learn from; this pack 145 of about 400×400.",
)


class SegmentRoad(SegmentationRecipe):
    title = "Roads"
    description = "Finds roads in aerial pictures of about one meter per pixel."
    architecture = "U-Net whose way down is MobileNetV2 to stride 16, batch normalization on the way up"
    packs = ("road",)
    dataset = DATASET
    classes = CLASSES
    # By the export's photographs it would be 64. Tiles of noise differ from the whole by 0.07 then, with 144 by 0.001.
    geometry = {"kind": "tiled", "multiple": 16, "tile_size": 512, "tile_step": 64, "halo": 160}

    def build_parts(self) -> dict[str, Part]:
        return {"segment": RoadPart()}


class RoadPart(SegmentationPart):
    """A U-Net whose encoder is a MobileNetV2."""

    dataset = DATASET
    batch = 4
    learning_rate = 1e-3
    hours = 0.5

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,1]; height and width are multiples of 16."""
        image = keras.Input((None, None, 3), name="image")
        x = unet.joined(mobilenet_v2.features(image, groups=5), (96, 48, 32), batch_norm=True)
        logits = layers.Conv2D(1, 1, name="logits", dtype="float32")(x)
        found = layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="unet_road")
