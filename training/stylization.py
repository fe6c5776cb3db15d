"""How style transfer is measured: what VGG19 sees of the content and of the style, each by its own spread."""

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
from training.tables import Table, tell

WEIGHTS = "vgg19/vgg19_block1_conv1_to_block5_conv2_u8.npz"
CONTENT = {"block4_conv1": 1.0, "block3_conv1": 0.3}
STYLE = ("block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1")
EVERY = 8
"""The spreads are those of every eighth training picture."""
SIDE, STYLE_SIDE = 320, 256
"""Pixels a side of the pictures and of the styles that are measured on, the middle of each."""
CONTENTS, STYLES, PRESETS = "content/test", "styles/test", "styles/presets"
EVERY_STYLE, MOST_STYLES = 4, 10

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(picture uint8 (SIDE, SIDE, 3), style uint8 (STYLE_SIDE, STYLE_SIDE, 3)) -> uint8 of the picture's shape."""


@dataclass(frozen=True)
class Sight:
    """What VGG19 sees of a picture and of a style: activations, moments [1,2 * channels], how far the two are apart."""

    content: Mapping[str, Any]
    style: Any
    apart: float


@dataclass(frozen=True)
class Judge:
    """VGG19 and what its activations usually vary by: `content` per activation, `style` per vector of moments."""

    network: keras.Model
    content: Mapping[str, float]
    style: Mapping[str, float]

    def activations(self, images: Any) -> dict[str, Any]:
        """Return what the layers of CONTENT and STYLE say of pictures [N,H,W,3] in [0, 1]."""
        found: dict[str, Any] = self.network(images)
        return found

    def content_distance(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Any:
        """Return how far the activations of pictures of one size are apart, [N]."""
        return sum(
            weight / self.content[name] * ops.mean(ops.square(one[name] - other[name]), axis=(1, 2, 3))
            for name, weight in CONTENT.items()
        )

    def style_distance(self, one: Any, other: Any) -> Any:
        """Return how far `moments` [N,2 * channels] are apart, [N]: the mean over the layers."""
        total, begin = 0.0, 0
        for name in STYLE:
            end = begin + 2 * self.network.output[name].shape[-1]
            total += ops.sum(ops.square(one[:, begin:end] - other[:, begin:end]), axis=-1) / self.style[name]
            begin = end
        return total / len(STYLE)

    def sight(self, image: Any, style: Any) -> Sight:
        """Return what is seen of one picture [1,H,W,3] and one style [1,h,w,3]."""
        content, wanted = self.activations(image), moments(self.activations(style))
        return Sight(content, wanted, float(self.style_distance(moments(content), wanted)[0]))

    def distances(self, painted: Any, sight: Sight) -> tuple[float, float]:
        """Return (style, content) of a painting [1,H,W,3]: the untouched picture has (1, 0)."""
        seen = self.activations(painted)
        style = float(self.style_distance(moments(seen), sight.style)[0]) / sight.apart
        return style, float(self.content_distance(seen, sight.content)[0])


def moments(activations: Mapping[str, Any]) -> Any:
    """Return mean and deviation of every channel of the layers of STYLE, [N,2 * channels]."""
    found = []
    for name in STYLE:
        mean, variance = ops.moments(activations[name], axes=(1, 2))
        found += [mean, ops.sqrt(variance + 1e-5)]
    return ops.concatenate(found, axis=-1)


@lru_cache(maxsize=1)
def judge(packs: Packs) -> Judge:
    """Return VGG19 with its spreads, measured on training pictures of packs `photos` and `styles`."""
    network = vgg19.build(sorted({*CONTENT, *STYLE}), packs.weights(WEIGHTS))
    photographs = (square(picture) for picture in packs.pictures("photos/train")[::EVERY])
    seen = [{name: values[name] for name in CONTENT} for values in _numbers(network, photographs)]
    content = {name: float(np.var(np.concatenate([values[name].ravel() for values in seen]))) for name in CONTENT}
    paintings = (square(picture) for picture in packs.pictures("styles/train")[::EVERY])
    manners = [ops.convert_to_numpy(moments(values))[0] for values in _numbers(network, paintings)]
    spread = np.var(np.stack(manners), axis=0)
    sizes = [2 * network.output[name].shape[-1] for name in STYLE]
    parts = np.split(spread, np.cumsum(sizes)[:-1])
    return Judge(network, content, {name: float(part.sum()) for name, part in zip(STYLE, parts, strict=True)})


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
    """Return the photographs that are measured on, uint8 (side, side, 3)."""
    return [square(picture, side) for picture in packs.pictures(CONTENTS)]


def styles(packs: Packs) -> list[np.ndarray]:
    """Return the paintings that are measured on, which nobody trained with."""
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
) -> list[Table]:
    """Return how near `methods` come to content and style, over every pair of `pictures` and `paintings`.

    By default those of the test folders. Not `crossed`, each picture goes with the painting in its place alone.
    """
    tell(command)
    pictures = contents(packs) if pictures is None else pictures
    paintings = styles(packs) if paintings is None else paintings
    critic = judge(packs)
    wanted = [moments(critic.activations(_batch(painting))) for painting in paintings]
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    pairs = 0
    for number, picture in enumerate(pictures):
        seen = critic.activations(_batch(picture))
        own = moments(seen)
        for place in range(len(paintings)) if crossed else [number]:
            sight = Sight(seen, wanted[place], float(critic.style_distance(own, wanted[place])[0]))
            pairs += 1
            for name, paint in methods.items():
                figures[name].append(critic.distances(_batch(paint(picture, paintings[place])), sight))
    rows: list[list[str | float]] = [["untouched", 1.0, 0.0]]
    rows += [[name, *np.mean(values, axis=0).tolist()] for name, values in figures.items()]
    size = pictures[0].shape[0]
    title = (
        f"{pairs} pairs of {len(pictures)} photographs ({size} px) and {len(paintings)} paintings, as VGG19 sees them"
    )
    note = "Smaller is nearer. Style: means and deviations of activations; content: activations."
    return [Table(title, command, ["", "style", "content"], rows, note)]


def _batch(picture: np.ndarray) -> np.ndarray:
    return (picture[None] / 255).astype(np.float32)
