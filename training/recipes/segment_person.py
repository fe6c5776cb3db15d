"""`segment/person`: people, cut out of photographs, by DeepLabV3+ with MobileNetV2.

    python -m training train segment_person --from WEIGHTS --hours 1    # WEIGHTS: docs/data.md
    python -m training evaluate segment_person

`docs/rows.md` says what it reached and what it should.
"""

from __future__ import annotations

import keras
from keras import layers

from training.architectures import deeplab, mobilenet_v2
from training.recipe import Part, Recipe
from training.segmentation import Domain, cross_entropy

SIZES = ((320, 320), (320, 256), (256, 320), (320, 192), (192, 320), (320, 128), (128, 320))
CLASSES = ((0, "background", (0, 0, 0)), (1, "person", (220, 60, 60)))
DOMAIN = Domain("person", CLASSES, size=(256, 256), canonical=SIZES, scales=(0.6, 1.4), labels="masks")


def network() -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,1]; height and width are multiples of 16."""
    image = keras.Input((None, None, 3), name="image")
    logits = deeplab.build(mobilenet_v2.features(image), 1)
    found = layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_person")


def recipe() -> Recipe:
    part = Part(
        network=network,
        loss=cross_entropy,
        batches=DOMAIN.batches,
        validate=DOMAIN.validate,
        sheet=DOMAIN.sheet,
        batch=8,
        learning_rate=5e-4,
        weight_decay=1e-4,
        steps_per_epoch=25,
        hours=1.0,
    )
    return Recipe(
        task="segment",
        name="person",
        title="People",
        description="People, told from everything else.",
        architecture="DeepLabV3+ with MobileNetV2, output stride 16, decoder to stride 2",
        packs=("person",),
        parts={"segment": part},
        geometry={"kind": "canonical", "multiple": 16, "canonical_sizes": list(SIZES)},
        classes=CLASSES,
        evaluate=lambda networks, packs: DOMAIN.tables(networks["segment"], packs, "segment_person"),
    )
