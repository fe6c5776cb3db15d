"""`segment/street-comparison`: four networks from random weights for the same minutes, as in the article.

    python -m training train segment_street_comparison --hours 0.4
    python -m training evaluate segment_street_comparison

The plain encoder-decoder is blurred, U-Net is sharp, DeepLabV3+ sees further. It makes a table, not a model to be
published: each network worth serving has its own recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
from keras import layers

from training.architectures import unet
from training.data.packs import Packs
from training.evaluation.tables import ResultTable
from training.recipe import Part, Recipe
from training.recipes.segment_street import CLASSES, DATASET, SegmentStreet, StreetPart
from training.recipes.segment_street_autoencoder import AutoencoderPart
from training.recipes.segment_street_xception import XceptionPart

TITLES = {
    "autoencoder": "plain encoder-decoder",
    "unet": "U-Net",
    "mobilenet_v2": "DeepLabV3+, MobileNetV2",
    "xception": "DeepLabV3+, reduced Xception",
}


class SegmentStreetComparison(SegmentStreet):
    title = "Streets, four networks"
    description = "Compares four networks, trained on the same pictures for the same time."
    architecture = ", ".join(TITLES.values())

    def build_parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {
            "autoencoder": AutoencoderPart(),
            "unet": UnetPart(),
            "mobilenet_v2": StreetPart(),
            "xception": WideXceptionPart(),
        }
        for part in parts.values():
            part.learning_rate, part.hours = 1e-3, 0.1
        return parts

    def evaluate(self, networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
        """Return one table with a row for each network, in per cent."""
        rows: list[list[str | float]] = []
        for name, network in networks.items():
            total, by_class = DATASET.tables(network, packs, self.id)
            of_some = [iou for name_of_class, iou in by_class.rows if name_of_class in ("pole", "car")]
            rows.append([TITLES[name], f"{network.count_params() / 1e6:.2f} M", *total.rows[-1][1:], *of_some])
        columns = ["", "parameters", "mean IoU", "pixel accuracy", "IoU of poles", "IoU of cars"]
        title = "street/test, per cent, each network trained from nothing for the same minutes"
        return [ResultTable(title, self.command, columns, rows)]

    evaluate_service = Recipe.evaluate_service  # it is not published


class UnetPart(StreetPart):
    """A U-Net."""

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 16."""
        image = keras.Input((None, None, 3), name="image")
        logits = layers.Conv2D(len(CLASSES), 1, name="logits", dtype="float32")(unet.build(image, batch_norm=True))
        found = layers.Softmax(dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="street_unet")


class WideXceptionPart(XceptionPart):
    """The Xception with all its weights."""

    narrow = False
