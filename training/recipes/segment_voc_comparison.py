"""`segment/voc-comparison`: two backbones of DeepLabV3+ on the 21 classes, from nothing, for the same minutes.

    python -m training train segment_voc_comparison --hours 0.3
    python -m training evaluate segment_voc_comparison

A table, not a model to be published: without pretrained weights 21 classes are out of reach in minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import keras
from keras import layers

from training.architectures import deeplab, xception
from training.data.packs import Packs
from training.recipe import Recipe
from training.recipes import segment_voc
from training.recipes.segment_voc import CLASSES, DOMAIN
from training.tables import Table

TITLES = {"mobilenet_v2": "MobileNetV2", "xception": "reduced Xception"}


def with_xception() -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,21]; height and width are multiples of 16."""
    image = keras.Input((None, None, 3), name="image")
    logits = deeplab.build(xception.features(image), len(CLASSES))
    found = layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_voc_xception")


def recipe() -> Recipe:
    like = segment_voc.recipe()
    part = replace(like.parts["segment"], learning_rate=1e-3, hours=0.15)
    networks = {"mobilenet_v2": segment_voc.network, "xception": with_xception}
    return replace(
        like,
        name="voc-comparison",
        title="PASCAL VOC, two backbones",
        description="Two backbones on the same pictures for the same minutes.",
        architecture="DeepLabV3+ with MobileNetV2 or a reduced Xception",
        parts={name: replace(part, network=network) for name, network in networks.items()},
        evaluate=evaluate,
        evaluate_service=None,
    )


def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
    """Return one table with a row a backbone, in per cent."""
    command = "python -m training evaluate segment_voc_comparison"
    rows: list[list[str | float]] = []
    for name, network in networks.items():
        total = DOMAIN.tables(network, packs, "segment_voc_comparison")[0]
        rows.append([TITLES[name], f"{network.count_params() / 1e6:.2f} M", *total.rows[-1][1:]])
    columns = ["", "parameters", "mean IoU", "pixel accuracy"]
    return [Table("voc/test, per cent, each network trained from nothing for the same minutes", command, columns, rows)]
