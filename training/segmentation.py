"""What segmentation recipes share: batches, loss, validation, preview grid and tables.

A network answers `probabilities` [N,H,W,classes] for `image` [N,H,W,3] in [0, 1]; with one class it is that of being
foreground.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops

from models.sizes import nearest_size
from training.data.packs import Packs
from training.data.scenes import VOID, Scene, Views, scenes
from training.evaluation import previews
from training.evaluation.metrics import boundary_f, confusion, intersection_over_union
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress
from training.recipe import Batch, Part, Recipe


@dataclass(frozen=True)
class SegmentationDataset:
    """A pack of labeled scenes, and how networks get them as inputs.

    `size` is (height, width) of training views, `canonical` those of what is served, multiples of 16; the one of the
    nearest shape is taken, as in the service. Without any, pictures keep their size. `labels` names the folder of
    labels; in `masks` there is one class, the foreground. `baselines` are (name, IoU in per cent) of published methods,
    and `note` says how their measurement differs.
    """

    pack: str
    classes: tuple[tuple[int, str, tuple[int, int, int]], ...]
    size: tuple[int, int]
    canonical: tuple[tuple[int, int], ...]
    scales: tuple[float, float]
    labels: str = "labels"
    turn: bool = False
    baselines: tuple[tuple[str, float], ...] = ()
    note: str = ""

    def scenes(self, packs: Packs, split: str, keep: slice = slice(None)) -> list[Scene]:
        """Return the labelled pictures of `split`, sorted by name. Raises MissingPack."""
        return scenes(packs, f"{self.pack}/{split}", labels=self.labels, keep=keep)

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return views `image` uint8 (N,h,w,3) with their `labels` uint8 (N,h,w)."""
        views = Views(self.scenes(packs, "train"), self.size, batch, seed, scales=self.scales, turn=self.turn)

        def make(index: int) -> Batch:
            pictures, labels = views(index)
            return {"image": pictures, "labels": labels}

        return make

    def view(self, scenes: Sequence[Scene], seed: int) -> Callable[[int], Scene]:
        """Return what draws a view of one of `scenes` by its number, for `interleave`."""
        views = Views(scenes, self.size, 1, seed, scales=self.scales, turn=self.turn)
        return lambda number: Scene(*(part[0] for part in views(number)))

    def probabilities(self, network: keras.Model, picture: np.ndarray) -> np.ndarray:
        """Return float32 (height, width, classes) for a picture of any size: as the service, but for its fine edges."""
        height, width = picture.shape[:2]
        if self.canonical:
            tall, wide = nearest_size(self.canonical, height, width)
        else:
            tall, wide = -(-height // 16) * 16, -(-width // 16) * 16
        reduced = cv2.resize(picture, (min(wide, width), min(tall, height)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(reduced, (wide, tall), interpolation=cv2.INTER_LINEAR)
        found = network({"image": (image[None] / 255).astype(np.float32)})["probabilities"]
        found = ops.convert_to_numpy(found)[0]
        return cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)

    def labels_of(self, network: keras.Model, picture: np.ndarray) -> np.ndarray:
        """Return the found ids, uint8 (height, width)."""
        found = self.probabilities(network, picture)
        return (found.argmax(axis=-1) if found.shape[-1] > 1 else found[..., 0] > 0.5).astype(np.uint8)

    def held_out(self, packs: Packs) -> list[Scene]:
        """Return 24 pictures of `val`, spread evenly."""
        count = len(packs.files(f"{self.pack}/val/images"))
        return self.scenes(packs, "val", slice(None, None, max(1, count // 24)))[:24]

    def validate(self, network: keras.Model, scenes: Sequence[Scene]) -> dict[str, float]:
        """Return the mean IoU in per cent on `scenes`; binary: of the foreground."""
        count = len(self.classes)
        found = [confusion(self.labels_of(network, one.picture), one.labels, count) for one in scenes]
        ious = intersection_over_union(np.sum(found, axis=0))
        return {"iou": 100 * float(ious[1] if self.labels == "masks" else np.nanmean(ious))}

    def preview_grid(self, network: keras.Model, scenes: Sequence[Scene]) -> np.ndarray:
        """Return rows of picture | truth | found, in the classes' colors, every fourth scene."""
        table = np.full((256, 3), 255, np.uint8)
        for number, _, color in self.classes:
            table[number] = color
        rows = []
        for scene in scenes[::4]:
            drawn = [scene.picture, table[scene.labels], table[self.labels_of(network, scene.picture)]]
            rows.append([picture.astype(np.float32) / 255 for picture in drawn])
        return previews.grid(rows)

    def tables(self, network: keras.Model, packs: Packs, recipe: str) -> list[ResultTable]:
        """Return what `network` reaches on `test`, in per cent, each picture at its own size."""
        command = f"python -m training evaluate {recipe}"
        return self._measure(partial(self.labels_of, network), packs, f"segment/{_model(recipe)}", command)

    def service_tables(self, url: str, packs: Packs, recipe: str) -> list[ResultTable]:
        """Return the same of the service at `url`, whose edges follow the picture. Raises ServiceProblem."""
        found = partial(Service(url).segment, model=_model(recipe))
        command = f"python -m training evaluate {recipe} --url {url}"
        return self._measure(found, packs, f"segment/{_model(recipe)}, served", command)

    def _measure(
        self, found: Callable[[np.ndarray], np.ndarray], packs: Packs, name: str, command: str
    ) -> list[ResultTable]:
        """Return IoU, its mean, accuracy and boundary F of `found`(uint8 RGB) -> ids, uint8 (height, width)."""
        report_progress(command)
        names = [name for _, name, _ in self.classes]
        counts = np.zeros((len(names), len(names)), np.int64)
        edges = []
        for scene in self.scenes(packs, "test"):
            ids = found(scene.picture)
            counts += confusion(ids, scene.labels, len(names))
            edges.append(boundary_f(ids == 1, scene.labels == 1) if self.labels == "masks" else 0.0)
        ious = 100 * intersection_over_union(counts)
        accuracy = 100 * float(np.diag(counts).sum() / counts.sum())
        title = f"{self.pack}/test, per cent"
        if self.labels == "masks":
            ours: list[str | float] = [name, float(ious[1]), 100 * float(np.mean(edges)), accuracy]
            columns = ["", "IoU of the foreground", "boundary F at 3 px", "pixel accuracy"]
            note = f"{self.note} Boundary F: mean over pictures.".strip()
            return [ResultTable(title, command, columns, [*self._baseline_rows(2), ours], note)]
        ours = [name, float(np.nanmean(ious)), accuracy]
        by_class: list[list[str | float]] = [
            [name_of_class, float(iou)] for name_of_class, iou in zip(names, ious, strict=True) if not np.isnan(iou)
        ]
        return [
            ResultTable(title, command, ["", "mean IoU", "pixel accuracy"], [*self._baseline_rows(1), ours], self.note),
            ResultTable(f"{self.pack}/test, IoU by class, per cent", command, ["class", "IoU"], by_class),
        ]

    def _baseline_rows(self, unknown: int) -> list[list[str | float]]:
        return [[name, iou, *[""] * unknown] for name, iou in self.baselines]


def interleave(sources: Sequence[Callable[[int], Scene]], batch: int) -> Callable[[int], Batch]:
    """Return batches whose views come from `sources` in turn."""

    def make(index: int) -> Batch:
        views = [sources[number % len(sources)](number) for number in range(index * batch, (index + 1) * batch)]
        return {"image": np.stack([one.picture for one in views]), "labels": np.stack([one.labels for one in views])}

    return make


def _model(recipe: str) -> str:
    """Return the model's name of a recipe for segmentation: `street-xception` of `segment_street_xception`."""
    return recipe.partition("_")[2].replace("_", "-")


def class_weights(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Return float32 (classes,) weights 1 / ln(1.1 + share of pixels), after ENet (Paszke et al. 2016), mean 1."""
    counts = sum(np.bincount(ids[ids != VOID].ravel(), minlength=classes) for ids in labels)
    weights = 1 / np.log(1.1 + counts / np.sum(counts))
    return (weights / weights.mean()).astype(np.float32)


def cross_entropy(network: keras.Model, batch: Mapping[str, Any], weights: np.ndarray | None = None) -> Any:
    """Return the mean cross entropy over labeled pixels, each weighted by its class."""
    image = ops.cast(batch["image"], "float32") / 255.0
    labels = ops.cast(batch["labels"], "int32")
    found = network({"image": image})["probabilities"]
    known = ops.cast(labels != VOID, "float32")
    labels = ops.where(labels == VOID, 0, labels)
    classes = found.shape[-1]
    if classes == 1:
        truth = ops.cast(labels[..., None], "float32")
        right = found * truth + (1 - found) * (1 - truth)
        cost = -ops.log(ops.clip(right[..., 0], 1e-6, 1.0))
    else:
        right = ops.sum(found * ops.one_hot(labels, classes), axis=-1)
        cost = -ops.log(ops.clip(right, 1e-6, 1.0))
        if weights is not None:
            known = known * ops.take(ops.convert_to_tensor(weights), labels)
    return ops.sum(cost * known) / (ops.sum(known) + 1.0)


class SegmentationPart(Part):
    """A network of `dataset`: image [N,H,W,3] -> probabilities [N,H,W,classes]; sides are multiples of 16."""

    dataset: SegmentationDataset
    weight_decay = 1e-4
    steps_per_epoch = 25
    class_weights: tuple[float, ...] | None = None
    """What each class counts in the loss; None: alike."""

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return the batches of the data set of this part."""
        return self.dataset.batches(packs, seed, batch)

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the cross-entropy of the batch, with the class weights if there are any."""
        weights = None if self.class_weights is None else np.array(self.class_weights, np.float32)
        return cross_entropy(network, batch, weights)

    def served_inputs(self, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Mapping[str, Any]:
        """Return the pictures of the batch in [0, 1]."""
        return {"image": ops.cast(batch["image"], "float32") / 255.0}

    def load_held_out(self, packs: Packs) -> list[Scene]:
        """Return the held-out scenes of the data set."""
        return self.dataset.held_out(packs)

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the IoU figures of `network` on the held-out scenes."""
        return self.dataset.validate(network, self.held_out(packs))

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return pictures, labels and results of held-out scenes side by side."""
        return self.dataset.preview_grid(network, self.held_out(packs))


class SegmentationRecipe(Recipe):
    """A model of one part, `segment`, measured on the test pictures of `dataset`."""

    dataset: SegmentationDataset

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of the data set, measured on its test pictures."""
        return self.dataset.tables(networks["segment"], packs, self.id)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the tables of the data set, measured through the service at `url`."""
        return self.dataset.service_tables(url, packs, self.id)
