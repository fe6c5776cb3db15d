"""`segment/street-comparison`: the founding article's comparison, four networks from nothing for the same minutes.

    python -m training train segment_street_comparison --hours 0.4
    python -m training evaluate segment_street_comparison

The plain encoder-decoder is blurred, U-Net is sharp, DeepLabV3+ sees further. A table, not a model to be published:
whatever is worth serving has a recipe of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import keras
from keras import layers

from training.architectures import unet
from training.data.packs import Packs
from training.recipe import Recipe
from training.recipes import segment_street, segment_street_autoencoder, segment_street_xception
from training.recipes.segment_street import CLASSES, DOMAIN
from training.tables import Table

TITLES = {
    "autoencoder": "plain encoder-decoder",
    "unet": "U-Net",
    "mobilenet_v2": "DeepLabV3+, MobileNetV2",
    "xception": "DeepLabV3+, reduced Xception",
}


def small_unet() -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,11]; height and width are multiples of 16."""
    image = keras.Input((None, None, 3), name="image")
    logits = layers.Conv2D(len(CLASSES), 1, name="logits", dtype="float32")(unet.build(image, batch_norm=True))
    found = layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="street_unet")


def recipe() -> Recipe:
    like = segment_street.recipe()
    networks: dict[str, Callable[[], keras.Model]] = {
        "autoencoder": segment_street_autoencoder.network,
        "unet": small_unet,
        "mobilenet_v2": segment_street.network,
        "xception": partial(segment_street_xception.network, narrow=False),
    }
    part = replace(like.parts["segment"], learning_rate=1e-3, hours=0.1)
    return replace(
        like,
        name="street-comparison",
        title="Streets, four networks",
        description="Four networks on the same pictures for the same minutes.",
        architecture=", ".join(TITLES.values()),
        parts={name: replace(part, network=network) for name, network in networks.items()},
        evaluate=evaluate,
        evaluate_service=None,
    )


def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
    """Return one table with a row a network, in per cent."""
    command = "python -m training evaluate segment_street_comparison"
    rows: list[list[str | float]] = []
    for name, network in networks.items():
        total, by_class = DOMAIN.tables(network, packs, "segment_street_comparison")
        of_some = [iou for name_of_class, iou in by_class.rows if name_of_class in ("pole", "car")]
        rows.append([TITLES[name], f"{network.count_params() / 1e6:.2f} M", *total.rows[-1][1:], *of_some])
    columns = ["", "parameters", "mean IoU", "pixel accuracy", "IoU of poles", "IoU of cars"]
    return [
        Table("street/test, per cent, each network trained from nothing for the same minutes", command, columns, rows)
    ]
