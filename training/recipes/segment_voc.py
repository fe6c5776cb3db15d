"""`segment/voc`: the 21 classes of PASCAL VOC, by DeepLabV3+ with MobileNetV2, taught by the DeepLabV3 it starts from.

    python -m training train segment_voc --from WEIGHTS --hours 0.5  # WEIGHTS: docs/data.md
    python -m training evaluate segment_voc

Only 80 pictures have labels. The rest are labelled by a teacher, each when it is first drawn: the DeepLabV3 of WEIGHTS,
its answers at two sizes averaged, as in Naive-Student (Chen et al. 2020, arXiv 2005.10266). `docs/training/results.md`
has its figures and targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import keras
import numpy as np
from keras import layers, ops

from training.architectures import deeplab, mobilenet_v2
from training.data.packs import Packs
from training.data.scenes import VOID, Scene
from training.recipe import Batch, Part
from training.segmentation import SegmentationDataset, SegmentationPart, SegmentationRecipe, interleave
from training.weights import take

CLASSES = (
    (0, "background", (0, 0, 0)),
    (1, "aeroplane", (128, 0, 0)),
    (2, "bicycle", (0, 128, 0)),
    (3, "bird", (128, 128, 0)),
    (4, "boat", (0, 0, 128)),
    (5, "bottle", (128, 0, 128)),
    (6, "bus", (0, 128, 128)),
    (7, "car", (128, 128, 128)),
    (8, "cat", (64, 0, 0)),
    (9, "chair", (192, 0, 0)),
    (10, "cow", (64, 128, 0)),
    (11, "diningtable", (192, 128, 0)),
    (12, "dog", (64, 0, 128)),
    (13, "horse", (192, 0, 128)),
    (14, "motorbike", (64, 128, 128)),
    (15, "person", (192, 128, 128)),
    (16, "pottedplant", (0, 64, 0)),
    (17, "sheep", (128, 64, 0)),
    (18, "sofa", (0, 192, 0)),
    (19, "train", (128, 192, 0)),
    (20, "tvmonitor", (0, 64, 128)),
)
# Larger than the pictures (352): the teacher alone gains four points by it on `train` and `val`.
SIZES = ((480, 640), (640, 480), (560, 560), (448, 656), (656, 448))
DATASET = SegmentationDataset(
    "voc",
    CLASSES,
    size=(416, 416),
    canonical=SIZES,
    scales=(1.1, 2.2),
    baselines=(
        ("DeepLabV3, MobileNetV2, on VOC 2012 val", 75.3),
        ("its teacher, the same from 8 bit, here at 513 px", 40.0),
    ),
    note="Labels of COCO with VOC's ids on 92 pictures, mostly of people: a class with one or two pictures counts as "
    "much as any other, so the mean is noisy and far below that on VOC's own pictures.",
)
PERSON = 15
TEACHER = "segment/deeplabv3_mnv2_1.0_voc_dequant.npz"
UNLABELED = (("voc/unlabeled", 3), ("person/train/images", 2), ("photos/train", 1), ("content/train", 1))
"""Folders of pictures without labels, and how many pictures of a view of eight come from each; one is labelled."""
LONG_SIDES = (448, 576)
"""The sizes at which the teacher labels a picture; the second mirrored."""
UNSURE = 0.5
"""Pixels to which the teacher gives less than this have no label."""


class SegmentVoc(SegmentationRecipe):
    title = "PASCAL VOC"
    description = "Segments people, animals, vehicles and furniture: the 21 classes of PASCAL VOC."
    architecture = "DeepLabV3+ with MobileNetV2, output stride 16, decoder to stride 2"
    packs = ("voc", "person", "photos", "content")
    weights = (TEACHER,)
    dataset = DATASET
    classes = CLASSES
    geometry = {"kind": "canonical", "multiple": 16, "canonical_sizes": list(SIZES)}

    def build_parts(self) -> dict[str, Part]:
        return {"segment": StudentPart()}


class VocPart(SegmentationPart):
    """DeepLabV3+ with MobileNetV2, on labeled scenes and on those that the teacher labels."""

    dataset = DATASET
    batch = 4
    learning_rate = 3e-4
    hours = 0.5

    def network(self) -> keras.Model:
        """Return a new DeepLabV3+ for the classes of VOC."""
        return build_network()

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return views of labeled and teacher-labeled scenes, `image` uint8 (N,h,w,3) with `labels` uint8 (N,h,w)."""
        teacher = load_teacher(packs)
        sources = [DATASET.view(DATASET.scenes(packs, "train"), seed)]
        for folder, share in UNLABELED:
            sources += [DATASET.view(TeacherLabeled(packs.pictures(folder), teacher), seed)] * share
        return interleave(sources, batch)


class StudentPart(VocPart):
    """The network that learns what the teacher lacks: atrous branches and decoder.

    The rest keeps its weights: there are too few pictures to learn 21 classes from, but enough to forget them.
    """

    def network(self) -> keras.Model:
        """Return a new DeepLabV3+ whose backbone is frozen."""
        whole = build_network()
        for layer in whole.layers:
            layer.trainable = layer.name.startswith(("aspp1", "aspp2", "aspp3", "atrous", "decoder", "low"))
        return whole


def build_network() -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,21]; height and width are multiples of 16."""
    image = keras.Input((None, None, 3), name="image")
    logits = deeplab.build(mobilenet_v2.features(image), len(CLASSES))
    found = layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model({"image": image}, {"probabilities": found}, name="deeplab_voc")


class TeacherLabeled(Sequence[Scene]):
    """Pictures uint8 (height, width, 3) as scenes, labeled by `teacher` when first used.

    `teacher(image)` gives float32 logits (h/16, w/16, classes) for a float32 image (h, w, 3) in [0, 1]. With `only`, a
    class's id, labels are 1 there and 0 elsewhere.
    """

    def __init__(
        self, pictures: Sequence[np.ndarray], teacher: Callable[[np.ndarray], np.ndarray], only: int | None = None
    ) -> None:
        self.pictures, self.teacher, self.only = pictures, teacher, only
        self.labels: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        if index not in self.labels:
            self.labels[index] = self._label(self.pictures[index])
        return Scene(self.pictures[index], self.labels[index])

    def _label(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        total = np.float32(0)
        for number, long_side in enumerate(LONG_SIDES):
            factor = long_side / max(height, width)
            tall, wide = (max(1, round(side * factor / 16)) * 16 for side in (height, width))
            image = cv2.resize(picture, (wide, tall), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
            turn = -1 if number == 1 else 1
            found = np.ascontiguousarray(self.teacher(image[:, ::turn])[:, ::turn])
            found = np.exp(found - found.max(axis=-1, keepdims=True))
            found /= found.sum(axis=-1, keepdims=True)
            total = total + cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
        labels = total.argmax(axis=-1).astype(np.uint8)
        if self.only is not None:
            labels = (labels == self.only).astype(np.uint8)
        labels[total.max(axis=-1) < UNSURE * len(LONG_SIDES)] = VOID
        return labels


def load_teacher(packs: Packs) -> Callable[[np.ndarray], np.ndarray]:
    """Return the DeepLabV3 of `TEACHER` as a function for `TeacherLabeled`. Raises MissingPack."""
    whole = build_network()
    with np.load(packs.weights(TEACHER)) as stored:
        take(whole, stored)
    # It has no atrous branches, and its decoder is what the student learns.
    kernel = whole.get_layer("atrous_projection").kernel
    kernel.assign(ops.zeros_like(kernel))
    coarse = keras.Model(whole.input, whole.get_layer("logits").output)
    return lambda image: ops.convert_to_numpy(coarse({"image": image[None]}))[0]
