"""`segment/object`: the main object of a picture, whatever it is.

    python -m training train segment_object --hours 1.4
    python -m training evaluate segment_object

A U²-Netp (Qin et al. 2020) with the features of a MobileNetV2 that has learned the classes of VOC. It starts from the
authors' weights and that DeepLabV3's (docs/data.md), and learns from masks drawn by people, from what U²-Netp answers
about other photographs, and from objects pasted before other pictures. Its last stage, at full size, is a light one: so
it takes half of the time. `docs/training/results.md` has its figures and targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training import onnx_weights
from training.architectures import mobilenet_v2, u2net
from training.data import objects
from training.data.objects import ObjectViews
from training.data.packs import Packs
from training.data.scenes import Scene
from training.evaluation.metrics import boundary_f, confusion, intersection_over_union
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress
from training.recipe import Batch, Part, Start
from training.segmentation import SegmentationDataset, SegmentationPart, SegmentationRecipe
from training.weights import take

SIZES = ((256, 256), (224, 288), (288, 224), (224, 320), (320, 224), (192, 384), (384, 192))
"""Those of training: at 320x320 and the like, as U²-Netp has them, `val` has 3 points less, and a step takes longer."""
TRAINED_SIZES = ((224, 288), (288, 224), (256, 256), (288, 384))
TRAINED_SHARE = 0.6
"""What trained weights count in the served mean of them and those that training started from (`served_networks`)."""
LOWEST, HIGHEST = 0.27, 0.93
"""The answers of the network that are served as 0 and 1, with half way between served as one half. On `val` that takes
the IoU from 85.3 to 86.7 % and the mean absolute error from 4.7 to 3.7 %: a loss that counts edges six times finds too
much, and one of cross entropy gives odds."""
CLASSES = ((0, "background", (0, 0, 0)), (1, "object", (60, 180, 90)))
DATASET = SegmentationDataset(
    "object",
    CLASSES,
    size=(320, 320),
    canonical=SIZES,
    scales=(0.7, 1.4),
    labels="masks",
    note="71 pictures of ECSSD, none of which any part of this project has learned from.",
)
TITLE = "object/test, per cent"
COLUMNS = ["", "IoU of the foreground", "mean IoU of pictures", "boundary F at 3 px", "mean absolute error"]
U2NETP = "segment/u2netp.onnx"
BACKBONE = "segment/deeplabv3_mnv2_1.0_voc_dequant.npz"
START = (U2NETP, BACKBONE)
FROZEN = ("Conv1", "bn_Conv1", "expanded_conv", "block_", "stage1_", "stage2_")
"""Layers that keep their weights: the MobileNetV2, and the first two stages, whose slopes would take a third longer."""


class SegmentObject(SegmentationRecipe):
    title = "Main object"
    description = "Finds the main object of a picture, whatever it is, to cut it out or to remove the background."
    architecture = "U²-Netp with features of MobileNetV2 and a light last stage, mean of a picture and its mirror image"
    packs = ("object", "photos-any", "person")
    weights = (U2NETP, BACKBONE)
    starts = (
        Start("U²-Netp (Qin et al. 2020)", "Apache-2.0", "apache-2.0.txt"),
        Start("a DeepLabV3 with MobileNetV2 (TensorFlow authors)", "Apache-2.0", "apache-2.0.txt"),
    )
    dataset = DATASET
    classes = CLASSES
    geometry = {"kind": "canonical", "multiple": 32, "canonical_sizes": list(SIZES)}

    card = (
        "ECSSD and ImageNet are distributed for research: whoever sells what the model makes minds their terms. It "
        "finds one thing or one group that stands out; it does not know what it is."
    )

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the network that is published: the mean of its answers about a picture and its mirror image.

        Its weights are between the start and the trained ones, which forget less that way: WiSE-FT (Wortsman et al.
        2022, arXiv 2109.01903). On `val` both together gain two points of IoU. The weights are rounded again, so that
        the file has 16 bits for each; and the answers are stretched (`LOWEST`).
        """
        mixed = build_network()
        load_start(mixed, packs)
        for before, after in zip(mixed.layers, networks["segment"].layers, strict=True):
            values = zip(before.get_weights(), after.get_weights(), strict=True)
            mean = [(1 - TRAINED_SHARE) * old + TRAINED_SHARE * new for old, new in values]
            before.set_weights([weights.astype(np.float16).astype(np.float32) for weights in mean])
        return {"segment": stretch(mirror(mixed))}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the figures of the network on `test` beside those of U²-Netp, measured the same way."""
        found = partial(DATASET.probabilities, networks["segment"])
        small = replace(DATASET, canonical=((320, 320),))
        before = partial(small.probabilities, original(packs))
        names = ("U²-Netp, its authors' weights at 320x320", "segment/object")
        rows: list[list[str | float]] = [
            [name, *measure(how, packs)] for name, how in zip(names, (before, found), strict=True)
        ]
        return [ResultTable(TITLE, self.command, COLUMNS, rows, DATASET.note)]

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same figures of cutouts of the service at `url`."""

        def opacity(picture: np.ndarray) -> np.ndarray:
            return service.cut_out(picture, "object")[..., 3:].astype(np.float32) / 255

        service = Service(url)
        rows: list[list[str | float]] = [["segment/object, served", *measure(opacity, packs)]]
        return [ResultTable(TITLE, f"{self.command} --url {url}", COLUMNS, rows, DATASET.note)]

    def build_parts(self) -> dict[str, Part]:
        return {"segment": ObjectPart()}


class _MeanOfMirrored(layers.Layer):
    """Answers about pictures and then about their mirror images [2N,H,W,1] -> their mean [N,H,W,1]."""

    def call(self, inputs: Any) -> Any:
        pictures, mirrored = ops.split(inputs, 2, axis=0)
        return (pictures + ops.flip(mirrored, axis=2)) / 2

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (None, *input_shape[1:])


def build_network(*, mirrored: bool = False) -> keras.Model:
    """Return image [N,H,W,3] -> probabilities [N,H,W,1]; height and width are multiples of 32.

    With `mirrored`, they are the mean of those of a picture and its mirror image.
    """
    image = keras.Input((None, None, 3), name="image")
    seen = ops.concatenate([image, ops.flip(image, axis=2)], axis=0) if mirrored else image
    others = mobilenet_v2.features(seen)
    logits = u2net.build(seen, {stride: others[stride] for stride in (4, 8, 16)}, light=True)[0]
    found = layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)
    if mirrored:
        found = _MeanOfMirrored(dtype="float32", name="mean_of_mirrored")(found)
    return keras.Model({"image": image}, {"probabilities": found}, name="u2net_object")


def mirror(network: keras.Model) -> keras.Model:
    """Return a network with the weights of `network` that answers the mean for a picture and its mirror image."""
    mirrored = build_network(mirrored=True)
    for layer in network.layers:
        mirrored.get_layer(layer.name).set_weights(layer.get_weights())
    return mirrored


def stretch(network: keras.Model) -> keras.Model:
    """Return `network` with answers that reach 0 at `LOWEST` and 1 at `HIGHEST`."""
    found = network.output["probabilities"]
    stretched = ops.clip((found - LOWEST) / (HIGHEST - LOWEST), 0.0, 1.0)
    return keras.Model(network.input, {"probabilities": stretched}, name=network.name)


def load_start(network: keras.Model, packs: Packs) -> None:
    """Load what training starts from. Raises MissingPack."""
    take(network, convert_weights(onnx_weights.read(packs.weights(U2NETP))))
    with np.load(packs.weights(BACKBONE)) as stored:
        take(network, stored)


def convert_weights(stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return the weights of a file; those of the authors' U²-Netp get our names."""
    return u2net.convert_weights(stored) if "outconv.weight" in stored else stored


def original(packs: Packs) -> keras.Model:
    """Return U²-Netp with its authors' weights. Raises MissingPack."""
    image = keras.Input((None, None, 3), name="image")
    found = layers.Activation("sigmoid", name="probabilities")(u2net.build(image)[0])
    network = keras.Model({"image": image}, {"probabilities": found}, name="u2netp")
    take(network, u2net.convert_weights(onnx_weights.read(packs.weights(U2NETP))))
    return network


def measure(found: Callable[[np.ndarray], np.ndarray], packs: Packs) -> list[float]:
    """Return the figures of COLUMNS, in per cent, of `found`(uint8 RGB) -> float32 (height, width, 1)."""
    report_progress("test pictures")
    counts, ious, edges, errors = np.zeros((2, 2), np.int64), [], [], []
    for scene in DATASET.scenes(packs, "test"):
        opacity = found(scene.picture)[..., 0]
        ids = (opacity > 0.5).astype(np.uint8)
        own = confusion(ids, scene.labels, 2)
        counts += own
        ious.append(intersection_over_union(own)[1])
        edges.append(boundary_f(ids == 1, scene.labels == 1))
        errors.append(np.abs(opacity - scene.labels).mean())
    figures = intersection_over_union(counts)[1], np.mean(ious), np.mean(edges), np.mean(errors)
    return [100 * float(figure) for figure in figures]


class ObjectPart(SegmentationPart):
    """U²-Netp with features of MobileNetV2."""

    dataset = DATASET
    batch = 6
    bfloat16 = True
    learning_rate = 3e-4
    warm_up_steps = 75
    hours = 1.4
    first_weights: tuple[str, ...] = START

    def network(self) -> keras.Model:
        """Return a new network, most of whose MobileNetV2 and first stages keep their weights."""
        network = build_network()
        for layer in network.layers:
            layer.trainable = not layer.name.startswith(FROZEN)
        return network

    def convert_weights(self, stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the weights of a file; the authors' U²-Netp has other names."""
        return convert_weights(stored)

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return views `image` uint8 (N,h,w,3) with `opacity` uint8 (N,h,w).

        Of eight, four are of masks that people drew, two of the teacher's answers, one of people, one pasted.
        """
        drawn = objects.labeled(packs, "object/train")
        answers = objects.taught(packs, "photos-any", "u2netp")
        sure = [one for one in answers if objects.is_sure(one)]
        people = objects.labeled(packs, "person/train")
        empty = [one for one in answers if objects.is_empty(one)]
        own, other, person = ObjectViews(drawn, seed), ObjectViews(sure, seed + 1), ObjectViews(people, seed + 2)
        fronts = ObjectViews([*drawn, *drawn, *sure, *people], seed + 3, smallest=0.9)

        def before(number: int, size: tuple[int, int]) -> objects.Cutting:
            return objects.pasted(fronts, empty, number, size)

        return objects.interleave([own, other, own, before, own, other, own, person], batch, TRAINED_SIZES)

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return cross entropy and soft IoU of the answer, and half of the sides' mean.

        Pixels near an edge count up to six times, as in F3Net (Wei et al. 2020, arXiv 1911.11445).
        """
        image = ops.cast(batch["image"], "float32") / 255.0
        truth = ops.cast(batch["opacity"], "float32")[..., None] / 255.0
        every = [network.get_layer(name).output for name in ("outconv", "sides")]
        logits = ops.concatenate(keras.Model(network.input, every)({"image": image}), axis=-1)
        weight = 1.0 + 5.0 * ops.abs(ops.average_pool(truth, 31, strides=1, padding="same") - truth)
        cost = ops.maximum(logits, 0.0) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))
        entropy = ops.sum(weight * cost, axis=(1, 2)) / ops.sum(weight, axis=(1, 2))
        found = ops.sigmoid(logits)
        both = ops.sum(weight * found * truth, axis=(1, 2))
        either = ops.sum(weight * (found + truth), axis=(1, 2)) - both
        costs = ops.mean(entropy + 1.0 - (both + 1.0) / (either + 1.0), axis=0)
        return costs[0] + 0.5 * ops.mean(costs[1:])

    def load_held_out(self, packs: Packs) -> list[Scene]:
        """Return eight pictures of `val`: measuring must not take longer than training."""
        return self.dataset.scenes(packs, "val", slice(None, None, 6))
