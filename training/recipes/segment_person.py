"""`segment/person`: people, cut out of photographs, by DeepLabV3+ with MobileNetV2.

    python -m training train segment_person --from WEIGHTS --hours 1    # WEIGHTS: docs/data.md
    python -m training evaluate segment_person

`docs/training/results.md` has its figures and targets. The pack shows hardly anything but people, so that
a network takes whatever stands out for one; a quarter of the training samples are other photographs, labeled by a
DeepLabV3.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import keras
import numpy as np
from keras import layers

from training.architectures import deeplab, mobilenet_v2
from training.data.packs import Packs
from training.data.scenes import paste
from training.evaluation.metrics import confusion, intersection_over_union
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part
from training.recipes.segment_voc import PERSON, TEACHER, TeacherLabeled, load_teacher
from training.segmentation import SegmentationDataset, SegmentationPart, SegmentationRecipe, interleave

# Larger than the pictures (320): edges gain, as measured on `val`.
SIZES = ((448, 448), (448, 352), (352, 448), (448, 272), (272, 448), (448, 176), (176, 448))
OTHERS = ("voc/unlabeled", "photos/train")
CLASSES = ((0, "background", (0, 0, 0)), (1, "person", (220, 60, 60)))
DATASET = SegmentationDataset(
    "person",
    CLASSES,
    size=(320, 320),
    canonical=SIZES,
    scales=(0.7, 2.0),
    labels="masks",
    baselines=(("U²-Net for people, on portraits, about", 95.0),),
    note="Here portraits and whole people in mixed scenes, by masks that are partly those of other networks.",
)


class SegmentPerson(SegmentationRecipe):
    title = "People"
    description = "Separates people from the background."
    architecture = "DeepLabV3+ with MobileNetV2, output stride 16, decoder to stride 2"
    packs = ("person", "voc", "photos")
    weights = (TEACHER,)
    dataset = DATASET
    classes = CLASSES
    geometry = {"kind": "canonical", "multiple": 16, "canonical_sizes": list(SIZES)}

    def build_parts(self) -> dict[str, Part]:
        return {"segment": PersonPart()}

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the tables of the service at `url`, and how much its masks depend on the size of a picture."""
        tables = super().evaluate_service(url, packs)
        service = Service(url)
        rows: list[list[str | float]] = []
        scenes = DATASET.scenes(packs, "test", slice(0, 20))
        own = [service.segment(scene.picture, "person") for scene in scenes]
        for name, factor, how in (("half", 0.5, cv2.INTER_AREA), ("double", 2.0, cv2.INTER_CUBIC)):
            found = []
            for scene, ids in zip(scenes, own, strict=True):
                height, width = ids.shape
                size = round(width * factor), round(height * factor)
                other = service.segment(cv2.resize(scene.picture, size, interpolation=how), "person")
                back = cv2.resize(other, (width, height), interpolation=cv2.INTER_NEAREST)
                found.append(100 * float(intersection_over_union(confusion(back, ids, 2))[1]))
            rows.append([f"at {name} size", float(np.median(found)), float(np.min(found))])
        columns = ["the same picture", "median IoU with itself", "least"]
        command = f"{self.command} --url {url}"
        return [*tables, ResultTable("20 pictures of person/test, per cent", command, columns, rows)]


class PersonPart(SegmentationPart):
    """DeepLabV3+ with MobileNetV2."""

    dataset = DATASET
    batch = 8
    learning_rate = 5e-4
    hours = 1.0

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> probabilities [N,H,W,1]; height and width are multiples of 16."""
        image = keras.Input((None, None, 3), name="image")
        logits = deeplab.build(mobilenet_v2.features(image), 1)
        found = layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)
        return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_person")

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return views `image` uint8 (N,h,w,3) with their `labels` uint8 (N,h,w).

        Of four, two are of people as they are, one of another photograph, and one of a person before another.
        """
        people = DATASET.view(DATASET.scenes(packs, "train"), seed)
        labeled = TeacherLabeled(
            [picture for folder in OTHERS for picture in packs.pictures(folder)], load_teacher(packs), only=PERSON
        )
        # Another seed: with the same, a number would always pair the same two.
        others = DATASET.view(labeled, seed + 1)
        return interleave([people, others, people, lambda number: paste(people(number), others(number))], batch)
