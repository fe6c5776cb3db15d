"""`segment/voc-comparison`: two backbones of DeepLabV3+ on the 21 classes, from nothing, for the same minutes.

    python -m training train segment_voc_comparison --hours 0.3
    python -m training evaluate segment_voc_comparison

It makes a table, not a model to be published: without pretrained weights 21 classes are out of reach in minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
from keras import layers

from training.architectures import deeplab, xception
from training.data.packs import Packs
from training.evaluation.tables import ResultTable
from training.recipe import Part, Recipe
from training.recipes.segment_voc import CLASSES, DATASET, SegmentVoc, VocPart

TITLES = {"mobilenet_v2": "MobileNetV2", "xception": "reduced Xception"}


class SegmentVocComparison(SegmentVoc):
    title = "PASCAL VOC, two backbones"
    description = "Compares two backbones, trained on the same pictures for the same time."
    architecture = "DeepLabV3+ with MobileNetV2 or a reduced Xception"

    def build_parts(self) -> dict[str, Part]:
        return {"mobilenet_v2": MobileNetPart(), "xception": XceptionPart()}

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        """Return one table with a row for each backbone, in per cent."""
        rows: list[list[str | float]] = []
        for name, network in networks.items():
            total = DATASET.tables(network, packs, self.id)[0]
            rows.append([TITLES[name], f"{network.count_params() / 1e6:.2f} M", *total.rows[-1][1:]])
        columns = ["", "parameters", "mean IoU", "pixel accuracy"]
        title = "voc/test, per cent, each network trained from nothing for the same minutes"
        return [ResultTable(title, self.command, columns, rows)]

    evaluate_service = Recipe.evaluate_service  # it is not published


class MobileNetPart(VocPart):
    """DeepLabV3+ with MobileNetV2, all of it trained."""

    learning_rate = 1e-3
    hours = 0.15


class XceptionPart(MobileNetPart):
    """DeepLabV3+ with a reduced Xception."""

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,21]; height and width are multiples of 16."""
        image = keras.Input((None, None, 3), name="image")
        logits = deeplab.build(xception.features(image), len(CLASSES))
        found = layers.Softmax(dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_voc_xception")
