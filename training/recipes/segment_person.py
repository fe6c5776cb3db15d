"""`segment/person`: people, cut out of photographs.

    python -m training train segment_person --from models/published/segment/object/1
    python -m training evaluate segment_person

`docs/training/results.md` has its figures and targets. The network is that of `segment/object`, from whose weights it
starts: it knows what stands out, and learns what people are. The packs show hardly anything but people, so that a
network takes whatever stands out for one; of eight training samples two are people before other photographs, and one
is such a photograph alone. A DeepLabV3 says in which of them there is nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import keras
import numpy as np

from training.data import objects
from training.data.objects import Cutting, ObjectViews
from training.data.packs import Packs, WrongPack
from training.data.scenes import VOID, Scene, scenes
from training.evaluation.metrics import confusion, intersection_over_union
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part
from training.recipes.segment_object import ObjectPart, SegmentObject, mirror
from training.recipes.segment_voc import PERSON, TEACHER, TeacherLabeled, load_teacher
from training.segmentation import SegmentationDataset, SegmentationRecipe

SIZES = ((320, 320), (320, 256), (256, 320), (320, 224), (224, 320), (384, 192), (192, 384))
TRAINED_SIZES = ((320, 224), (256, 320), (320, 256), (288, 288))
OTHERS = ("voc/unlabeled", "photos/train", "photos-any")
NOBODY = 0.001
"""Photographs of which the teacher gives less than this share to people have none."""
CLASSES = ((0, "background", (0, 0, 0)), (1, "person", (220, 60, 60)))
DATASET = SegmentationDataset(
    "person",
    CLASSES,
    size=(320, 320),
    canonical=SIZES,
    scales=(0.7, 1.4),
    labels="masks",
    baselines=(("U²-Net for people, on portraits, about", 95.0),),
    note="Here portraits and whole people in mixed scenes, by masks that are partly those of other networks.",
)


class SegmentPerson(SegmentationRecipe):
    title = "People"
    description = "Separates people from the background."
    architecture = "U²-Netp with features of MobileNetV2 and a light last stage, mean of a picture and its mirror image"
    packs = ("person", "voc", "photos", "photos-any")
    weights = (TEACHER,)
    starts = SegmentObject.starts
    dataset = DATASET
    classes = CLASSES
    geometry = {"kind": "canonical", "multiple": 32, "canonical_sizes": list(SIZES)}

    def build_parts(self) -> dict[str, Part]:
        return {"segment": PersonPart()}

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the network that is published: the mean of its answers about a picture and its mirror image.

        On `val` that gains 1.3 points of IoU, for twice the time.
        """
        return {"segment": mirror(networks["segment"])}

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


class PersonPart(ObjectPart):
    """The network of `segment/object`, on people."""

    dataset = DATASET
    learning_rate = 1e-4
    hours = 1.0
    first_weights = ()

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return views `image` uint8 (N,h,w,3) with `opacity` uint8 (N,h,w).

        Of eight, four are of masks of people, one of a scene with people in VOC's classes, two of people before other
        photographs, and one of another photograph.
        """
        people = objects.labeled(packs, "person/train")
        groups = [as_cutting(scene) for scene in scenes(packs, "voc/train") if (scene.labels == PERSON).any()]
        others = TeacherLabeled(
            [picture for folder in OTHERS for picture in packs.pictures(folder)], load_teacher(packs), only=PERSON
        )
        own, group = ObjectViews(people, seed), ObjectViews(groups, seed + 1)
        fronts = ObjectViews(people, seed + 2, smallest=0.9)

        def empty(number: int, size: tuple[int, int]) -> Cutting:
            return ObjectViews([find_empty(others, [seed, number])], seed + number)(0, size)

        def before(number: int, size: tuple[int, int]) -> Cutting:
            return objects.pasted(fronts, [find_empty(others, [seed, number])], number, size)

        return objects.interleave([own, own, before, group, own, empty, own, before], batch, TRAINED_SIZES)

    def load_held_out(self, packs: Packs) -> list[Scene]:
        """Return every third picture of `val`."""
        return self.dataset.scenes(packs, "val", slice(None, None, 3))


def find_empty(others: Sequence[Scene], seed: Sequence[int]) -> Cutting:
    """Return one of `others`, labeled 1 where there are people, that has none. Raises WrongPack where all have."""
    random = np.random.default_rng([*seed, 2])
    for number in random.permutation(len(others)):
        scene = others[int(number)]
        if np.mean(scene.labels == 1) < NOBODY:
            return Cutting(scene.picture, np.zeros(scene.labels.shape, np.uint8))
    raise WrongPack("There are people in every photograph that is to have none.")


def as_cutting(scene: Scene) -> Cutting:
    """Return a scene of VOC's classes with the opacity of its people. Pixels without a label get the nearest one's."""
    known = (scene.labels == VOID).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(known, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    by_number = np.zeros(nearest.max() + 1, np.uint8)
    by_number[nearest[known == 0]] = 255 * (scene.labels[known == 0] == PERSON)
    return Cutting(scene.picture, by_number[nearest])
