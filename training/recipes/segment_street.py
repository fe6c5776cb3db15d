"""`segment/street`: what a street picture shows, eleven classes, by DeepLabV3+ with MobileNetV2.

    python -m training train segment_street --from WEIGHTS --hours 1.5    # WEIGHTS: docs/data.md
    python -m training evaluate segment_street

`docs/training/results.md` has the figures it reached and its targets.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import deeplab, mobilenet_v2
from training.recipe import Part
from training.segmentation import SegmentationDataset, SegmentationPart, SegmentationRecipe

CLASSES = (
    (0, "sky", (128, 128, 128)),
    (1, "building", (128, 0, 0)),
    (2, "pole", (192, 192, 128)),
    (3, "road", (128, 64, 128)),
    (4, "pavement", (60, 40, 222)),
    (5, "tree", (128, 128, 0)),
    (6, "sign", (192, 128, 128)),
    (7, "fence", (64, 64, 128)),
    (8, "car", (64, 0, 128)),
    (9, "pedestrian", (64, 64, 0)),
    (10, "bicyclist", (0, 128, 192)),
)
# Larger than the pictures (480×360): poles and fences gain, as measured on `val`.
SIZES = ((464, 608), (608, 464), (528, 528), (336, 608))
DATASET = SegmentationDataset(
    "street",
    CLASSES,
    size=(352, 480),
    canonical=SIZES,
    scales=(0.8, 1.8),
    baselines=(("SegNet", 60.1), ("FC-DenseNet103", 66.9), ("BiSeNet", 68.7), ("PSPNet", 69.1)),
    note="CamVid's 11 classes and its test pictures; the papers' figures are at up to 960×720, here 480×360, and most "
    "of their backbones had seen ImageNet.",
)
# 1 / ln(1.1 + share) of the classes' pixels in the training set, mean 1 (training.segmentation.class_weights).
WEIGHTS = (0.578, 0.478, 1.345, 0.393, 1.027, 0.767, 1.322, 1.327, 0.941, 1.387, 1.434)


class SegmentStreet(SegmentationRecipe):
    title = "Streets"
    description = "Segments street pictures into eleven classes."
    architecture = "DeepLabV3+ with MobileNetV2, output stride 16, decoder to stride 2"
    packs = ("street",)
    dataset = DATASET
    classes = CLASSES
    geometry = {"kind": "canonical", "multiple": 16, "canonical_sizes": list(SIZES)}

    def build_parts(self) -> dict[str, Part]:
        return {"segment": StreetPart()}


class StreetPart(SegmentationPart):
    """DeepLabV3+ with MobileNetV2."""

    dataset = DATASET
    class_weights = WEIGHTS
    batch = 4
    learning_rate = 5e-4
    hours = 1.5

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 16."""
        image = keras.Input((None, None, 3), name="image")
        logits = deeplab.build(mobilenet_v2.features(image), len(CLASSES))
        found = layers.Softmax(dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_street")
