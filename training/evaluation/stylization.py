"""Measures style transfer: distances of VGG19 activations for content and style, each divided by its variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops

from training.architectures import vgg19
from training.data.packs import Packs
from training.evaluation.tables import ResultTable, report_progress

WEIGHTS = "vgg19/vgg19_block1_conv1_to_block5_conv2_u8.npz"
CONTENT = {"block4_conv1": 1.0, "block3_conv1": 0.3}
STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1")
EVERY = 8
"""The variances are those of every eighth training picture."""
SIDE, STYLE_SIDE = 320, 256
"""Pixels a side of the pictures and of the styles that are measured on, the middle of each."""
CONTENTS, STYLES, PRESETS = "content/test", "styles/test", "styles/presets"
EVERY_STYLE, MOST_STYLES = 4, 10

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(picture uint8 (SIDE, SIDE, 3), style uint8 (STYLE_SIDE, STYLE_SIDE, 3)) -> uint8 of the picture's shape."""


@dataclass(frozen=True)
class PairTargets:
    """The references of a painting: the picture's activations, the style's moments [1,2 * channels], their distance."""

    content: Mapping[str, Any]
    style: Any
    distance: float


@dataclass(frozen=True)
class PerceptualMetric:
    """VGG19 and the usual variances: `content` of each activation, `style` of each layer's moments."""

    network: keras.Model
    content: Mapping[str, float]
    style: Mapping[str, float]

    def activations(self, images: Any) -> dict[str, Any]:
        """Return the activations of the layers of CONTENT and STYLE for pictures [N,H,W,3] in [0, 1]."""
        found: dict[str, Any] = self.network(images)
        return found

    def content_distance(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Any:
        """Return the distance of the activations of pictures of one size, [N]."""
        return sum(
            weight / self.content[name] * ops.mean(ops.square(one[name] - other[name]), axis=(1, 2, 3))
            for name, weight in CONTENT.items()
        )

    def style_distance(self, one: Any, other: Any) -> Any:
        """Return the distance of `moments` [N,2 * channels], [N]: the mean over the layers."""
        total, begin = 0.0, 0
        for name in STYLE:
            end = begin + 2 * self.network.output[name].shape[-1]
            total += ops.sum(ops.square(one[:, begin:end] - other[:, begin:end]), axis=-1) / self.style[name]
            begin = end
        return total / len(STYLE)

    def targets(self, image: Any, style: Any) -> PairTargets:
        """Return the targets of one picture [1,H,W,3] and one style [1,h,w,3]."""
        content, wanted = self.activations(image), moments(self.activations(style))
        return PairTargets(content, wanted, float(self.style_distance(moments(content), wanted)[0]))

    def distances(self, painted: Any, targets: PairTargets) -> tuple[float, float]:
        """Return (style, content) of a painting [1,H,W,3]: the untouched picture has (1, 0)."""
        seen = self.activations(painted)
        style = float(self.style_distance(moments(seen), targets.style)[0]) / targets.distance
        return style, float(self.content_distance(seen, targets.content)[0])


def moments(activations: Mapping[str, Any]) -> Any:
    """Return mean and deviation of every channel of the layers of STYLE, [N,2 * channels]."""
    found = []
    for name in STYLE:
        mean, variance = ops.moments(activations[name], axes=(1, 2))
        found += [mean, ops.sqrt(variance + 1e-5)]
    return ops.concatenate(found, axis=-1)


@lru_cache(maxsize=1)
def load_perceptual_metric(packs: Packs) -> PerceptualMetric:
    """Return VGG19 with the variances of training pictures of packs `photos` and `styles`."""
    network = vgg19.build(sorted({*CONTENT, *STYLE}), packs.weights(WEIGHTS))
    photographs = (square(picture) for picture in packs.pictures("photos/train")[::EVERY])
    seen = [{name: values[name] for name in CONTENT} for values in _numbers(network, photographs)]
    content = {name: float(np.var(np.concatenate([values[name].ravel() for values in seen]))) for name in CONTENT}
    paintings = (square(picture) for picture in packs.pictures("styles/train")[::EVERY])
    style_moments = [ops.convert_to_numpy(moments(values))[0] for values in _numbers(network, paintings)]
    spread = np.var(np.stack(style_moments), axis=0)
    sizes = [2 * network.output[name].shape[-1] for name in STYLE]
    parts = np.split(spread, np.cumsum(sizes)[:-1])
    return PerceptualMetric(
        network, content, {name: float(part.sum()) for name, part in zip(STYLE, parts, strict=True)}
    )


def _numbers(network: keras.Model, pictures: Iterable[np.ndarray]) -> Iterable[dict[str, np.ndarray]]:
    for picture in pictures:
        found = network(_batch(picture))
        yield {name: ops.convert_to_numpy(values) for name, values in found.items()}


def square(picture: np.ndarray, size: int = 256) -> np.ndarray:
    """Return the middle of a picture as uint8 (size, size, 3)."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = picture[top : top + side, left : left + side]
    return np.asarray(cv2.resize(middle, (size, size), interpolation=cv2.INTER_AREA))


def contents(packs: Packs, side: int = SIDE) -> list[np.ndarray]:
    """Return the photographs of the test, uint8 (side, side, 3)."""
    return [square(picture, side) for picture in packs.pictures(CONTENTS)]


def styles(packs: Packs) -> list[np.ndarray]:
    """Return the paintings of the test, which training never sees."""
    return [square(picture, STYLE_SIDE) for picture in packs.pictures(STYLES)[::EVERY_STYLE][:MOST_STYLES]]


def presets(packs: Packs) -> list[np.ndarray]:
    """Return the paintings of the presets, in their order."""
    return [square(picture, STYLE_SIDE) for picture in packs.pictures(PRESETS)]


def tables(
    methods: Mapping[str, Paint],
    packs: Packs,
    command: str,
    *,
    pictures: Sequence[np.ndarray] | None = None,
    paintings: Sequence[np.ndarray] | None = None,
    crossed: bool = True,
) -> list[ResultTable]:
    """Return the distances of `methods` to content and style, over every pair of `pictures` and `paintings`.

    By default those of the test folders. Without `crossed`, each picture is paired with the painting of its index.
    """
    report_progress(command)
    pictures = contents(packs) if pictures is None else pictures
    paintings = styles(packs) if paintings is None else paintings
    metric = load_perceptual_metric(packs)
    wanted = [moments(metric.activations(_batch(painting))) for painting in paintings]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    pairs = 0
    for number, picture in enumerate(pictures):
        seen = metric.activations(_batch(picture))
        own = moments(seen)
        for place in range(len(paintings)) if crossed else [number]:
            targets = PairTargets(seen, wanted[place], float(metric.style_distance(own, wanted[place])[0]))
            pairs += 1
            for name, paint in methods.items():
                figures[name].append(metric.distances(_batch(paint(picture, paintings[place])), targets))
    rows: list[list[str | float]] = [["untouched", 1.0, 0.0]]
    rows += [[name, *np.mean(values, axis=0).tolist()] for name, values in figures.items()]
    size = pictures[0].shape[0]
    title = (
        f"{pairs} pairs of {len(pictures)} photographs ({size} px) and {len(paintings)} paintings, as VGG19 sees them"
    )
    note = "Smaller is nearer. Style: means and deviations of activations; content: activations."
    return [ResultTable(title, command, ["", "style", "content"], rows, note)]


def _batch(picture: np.ndarray) -> np.ndarray:
    return (picture[None] / 255).astype(np.float32)
