"""`stylize/any`: a picture painted in any style, given as another picture, in one pass.

    python -m training train stylize_any --from models/published/stylize/any/3
    python -m training evaluate stylize_any

`docs/training/results.md` has the figures it reached and its targets. The losses compare VGG19 activations: the
painting's should be the picture's, their means, deviations and Gram matrices the style's; a picture in its own style
should stay the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from PIL import Image

from training.architectures import style_painter, vgg19
from training.architectures.style_optimizer import grams
from training.data.crops import validation_split
from training.data.packs import Packs
from training.evaluation import previews, stylization
from training.evaluation.service import Service
from training.evaluation.stylization import (
    CONTENT,
    STYLE,
    STYLE_SIDE,
    WEIGHTS,
    PairTargets,
    PerceptualMetric,
    contents,
    load_perceptual_metric,
    moments,
    square,
    tables,
)
from training.evaluation.tables import ResultTable
from training.precision import dtype_policy, has_fast_bfloat16
from training.recipe import Batch, Part, Recipe

SIZE, STYLE_SIZE = 160, 192
STYLE_WEIGHT, GRAM_WEIGHT, IDENTITY_WEIGHT, VARIATION_WEIGHT = 3.0, 1.0, 10.0, 2.0
PRESETS = 0.2
"""The share of samples with a preset as style."""
RAMPS = 0.06
"""The share of pictures that are smooth ramps of color, as skies are: without them they get stripes."""
SOFT = 0.15
"""The share of pictures that are blurred, as backgrounds are: without them dark ones get spots of color."""
NOISE = 3.0
"""The largest deviation of the noise that half of the pictures get, in levels of 255."""
PAIRS = 5
MULTIPLE, HALO = 4, 56
"""Beside the moments, a pixel depends only on pixels less than HALO away."""
STATISTICS_SIDE = 512
"""The moments are measured on a picture of at most as many pixels as a square of this side."""


class StylizeAny(Recipe):
    title = "Any style"
    description = "Paints a picture in the style of any other picture, in one pass."
    architecture = "Transformer network, instance normalization by a style vector at every depth"
    packs: tuple[str, ...] = ("photos", "styles")
    weights = (WEIGHTS,)
    geometry = {"kind": "tiled", "multiple": MULTIPLE, "tile_size": 768, "tile_step": 64, "halo": HALO}
    defaults = {"statistics_side": STATISTICS_SIDE, "style_side": STYLE_SIDE}
    inputs = {
        "vector": {"range": None, "meaning": "the style, as `encode` or `preset` gives it"},
        "moments": {"range": None, "meaning": "means and logarithms of deviations, of the whole picture, reduced"},
        "style": {"meaning": "a picture in the style"},
        "index": {"range": None, "meaning": "the number of a preset, from 0"},
    }

    def build_parts(self) -> dict[str, Part]:
        return {"painter": Painter()}

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> dict[str, keras.Model]:
        """Return the networks that paint, measure and encode, and one that gives the vectors of the presets."""
        parts = style_painter.split(networks["painter"])
        pictures = [reduce_picture(picture, STYLE_SIDE) for picture in packs.pictures("styles/presets")]
        vectors = [ops.convert_to_numpy(parts["encode"]({"style": picture})["vector"])[0] for picture in pictures]
        return parts | {"preset": style_painter.presets(np.stack(vectors))}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the distances to styles that training never saw, and to the presets."""

        def painted(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
            return paint(networks, picture, encode(networks, painting))

        found = tables({"stylize/any": painted}, packs, self.command)
        own = {"stylize/any, in the style of its presets": painted}
        return found + tables(
            own, packs, self.command, pictures=contents(packs)[::2], paintings=stylization.presets(packs)
        )

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same of unseen paintings, through the service at `url`. Raises ServiceProblem."""
        return tables({"stylize/any, served": Service(url).stylize}, packs, f"{self.command} --url {url}")

    def styles(self, packs: Packs) -> list[dict[str, str]]:
        """Return name, title, artist and year of each preset, in the order of its files."""
        lines = (packs.folder("styles/presets") / "presets.tsv").read_text(encoding="utf-8").splitlines()
        names, *rows = (line.split("\t") for line in lines)
        found = sorted((dict(zip(names, row, strict=True)) for row in rows), key=lambda entry: entry["file"])
        return [
            {
                "name": entry["file"].partition("_")[2].removesuffix(".webp").replace("_", "-"),
                **{key: entry[key] for key in ("title", "artist", "year")},
            }
            for entry in found
        ]

    def files(self, networks: Mapping[str, Any], packs: Packs) -> dict[str, bytes]:
        """Return a small photograph painted in each preset, WebP."""
        import skimage.data  # not installed on the training machine

        photograph = cv2.resize(skimage.data.chelsea()[:, 60:360], (256, 256), interpolation=cv2.INTER_AREA)
        found = {}
        for number, style in enumerate(self.styles(packs)):
            file = io.BytesIO()
            Image.fromarray(paint(networks, photograph, preset_vector(networks, number))).save(
                file, "webp", quality=80, method=6
            )
            found[f"styles/{style['name']}.webp"] = file.getvalue()
        return found


class Painter(Part):
    """The transformer network, trained with the perceptual losses."""

    batch = 4
    learning_rate = 5e-4
    steps_per_epoch = 25
    hours = 2.0

    def __init__(self) -> None:
        super().__init__()
        self._metric: PerceptualMetric | None = None
        self._vgg: keras.Model | None = None

    def network(self) -> keras.Model:
        """Return a new transformer network for styles."""
        return style_painter.build()

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `image` uint8 (N,SIZE,SIZE,3) and `style` uint8 (N,STYLE_SIZE,STYLE_SIZE,3)."""
        photographs, _ = validation_split(packs.pictures("photos/train"))
        self._metric, self._vgg = load_perceptual_metric(packs), build_fast_vgg(packs)
        paintings, _ = validation_split(packs.pictures("styles/train"))
        presets = packs.pictures("styles/presets")

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index])
            return {
                "image": np.stack([draw_picture(photographs, SIZE, random) for _ in range(batch)]),
                "style": np.stack([draw_style(paintings, presets, random) for _ in range(batch)]),
            }

        return make

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return terms of content, of style (moments and Gram matrices) and of variation, and the error of a picture
        painted in its own style."""
        assert self._metric is not None, "batches loads it"
        assert self._vgg is not None
        image, style = (ops.cast(batch[name], "float32") / 255.0 for name in ("image", "style"))
        painted = network({"image": image, "style": style})["image"]
        seen, photograph, painting = (self._vgg(picture) for picture in (painted, image, style))
        found, photograph, wanted = as_float32(seen), as_float32(photograph), moments(as_float32(painting))
        content = ops.mean(self._metric.content_distance(found, {name: photograph[name] for name in CONTENT}))
        same = network({"image": image[:1], "style": image[:1]})["image"]
        return (
            content
            + STYLE_WEIGHT * ops.mean(self._metric.style_distance(moments(found), wanted))
            + GRAM_WEIGHT * gram_distance(seen, {name: grams(painting[name]) for name in STYLE})
            + IDENTITY_WEIGHT * ops.mean(ops.square(same - image[:1]))
            + VARIATION_WEIGHT * variation(painted)
        )

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, np.ndarray, PairTargets]]:
        """Return held-out photographs and styles, float32 (1,256,256,3), and the targets of each pair."""
        photographs = validation_split(packs.pictures("photos/train"))[1][1::3][:PAIRS]
        paintings = validation_split(packs.pictures("styles/train"))[1][::2][:PAIRS]
        found = []
        for pictures in zip(photographs, paintings, strict=True):
            image, style = ((square(picture)[None] / 255).astype(np.float32) for picture in pictures)
            found.append((image, style, load_perceptual_metric(packs).targets(image, style)))
        return found

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean style and content distance over the pairs; untouched pictures have a style of 1."""
        distances = [
            load_perceptual_metric(packs).distances(network({"image": image, "style": style})["image"], targets)
            for image, style, targets in self.held_out(packs)
        ]
        style, content = np.mean(distances, axis=0).tolist()
        return {"style": style, "content": content}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return every picture (down) in every style (across)."""
        pairs = self.held_out(packs)
        rows = [[np.ones_like(pairs[0][0][0]), *(style[0] for _, style, _ in pairs)]]
        for image, _, _ in pairs:
            painted = [network({"image": image, "style": style})["image"] for _, style, _ in pairs]
            rows.append([image[0], *(ops.convert_to_numpy(picture)[0] for picture in painted)])
        return previews.grid(rows)


def build_fast_vgg(packs: Packs) -> keras.Model:
    """Return VGG19 up to the layers of the metric, in bfloat16 where the processor has instructions for it."""
    layers = list(load_perceptual_metric(packs).network.output)
    with dtype_policy("bfloat16" if has_fast_bfloat16() else "float32"):
        return vgg19.build(layers, packs.weights(WEIGHTS))


def draw_picture(photographs: Sequence[np.ndarray], size: int, random: np.random.Generator) -> np.ndarray:
    """Return a part of one of `photographs` or a smooth ramp, now and then blurred or noisy: uint8 (size, size, 3)."""
    if random.random() < RAMPS:
        image = draw_ramp(size, random)
    else:
        image = crop(photographs[int(random.integers(len(photographs)))], size, random, least=0.4)
        if random.random() < SOFT:
            image = cv2.GaussianBlur(image, (0, 0), random.uniform(1, 6))
    return add_noise(image, random) if random.random() < 0.5 else image


def draw_style(
    paintings: Sequence[np.ndarray], presets: Sequence[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """Return a part of a painting, uint8 (STYLE_SIZE, STYLE_SIZE, 3). The color channels of half of those that are no
    presets are permuted."""
    if random.random() < PRESETS:
        return crop(presets[int(random.integers(len(presets)))], STYLE_SIZE, random, least=0.6)
    part = crop(paintings[int(random.integers(len(paintings)))], STYLE_SIZE, random, least=0.6)
    return np.ascontiguousarray(part[..., random.permutation(3)]) if random.random() < 0.5 else part


def draw_ramp(size: int, random: np.random.Generator) -> np.ndarray:
    """Return a smooth picture, uint8 (size, size, 3): colors of the corners of a coarse grid, interpolated."""
    coarse = random.uniform(0, 255, 3) + random.normal(0, 40, (3, 3, 3))
    smooth = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(smooth), 0, 255).astype(np.uint8)


def add_noise(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return uint8 `image` with white noise of up to NOISE levels."""
    noise = random.normal(0, random.uniform(0.5, NOISE), image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def gram_distance(seen: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
    """Return the mean distance of Gram matrices of activations to `wanted` [N,C,C], relative to the latter."""
    distances = [
        ops.sum(ops.square(grams(seen[name]) - products), axis=(1, 2)) / ops.sum(ops.square(products), axis=(1, 2))
        for name, products in wanted.items()
    ]
    return ops.mean(ops.stack(distances))


def as_float32(activations: Mapping[str, Any]) -> dict[str, Any]:
    """Return activations of any precision in single precision."""
    return {name: ops.cast(values, "float32") for name, values in activations.items()}


def crop(picture: np.ndarray, size: int, random: np.random.Generator, least: float) -> np.ndarray:
    """Return a square part, `least` to 1 of the shorter side, as uint8 (size, size, 3), mirrored half of the time."""
    height, width = picture.shape[:2]
    side = round(min(height, width) * random.uniform(least, 1))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    part = cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(part[:, ::-1] if random.random() < 0.5 else part)


def variation(image: Any) -> Any:
    """Return the mean square difference of neighbors, of pictures [N,H,W,3]."""
    down, right = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    return ops.mean(ops.square(down)) + ops.mean(ops.square(right))


def reduce_picture(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture with about as many pixels as a square of `side`, as the service reduces it: [1,h,w,3]."""
    height, width = picture.shape[:2]
    factor = min(1.0, side / np.sqrt(height * width))
    tall, wide = (round(length * factor / MULTIPLE) * MULTIPLE for length in (height, width))
    resized = cv2.resize(picture, (wide, tall), interpolation=cv2.INTER_AREA)
    return (resized[None] / 255).astype(np.float32)


def paint(networks: Mapping[str, Any], picture: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return uint8 `picture` (height, width, 3), sides multiples of 4, painted by served `networks`."""
    image = (picture[None] / 255).astype(np.float32)
    small = reduce_picture(picture, STATISTICS_SIDE)
    measured = _numpy(networks["statistics"]({"image": small, "vector": vector})["moments"])
    painted = _numpy(networks["paint"]({"image": image, "vector": vector, "moments": measured})["image"])[0]
    return np.rint(np.clip(painted, 0, 1) * 255).astype(np.uint8)


def preset_vector(networks: Mapping[str, Any], number: int) -> np.ndarray:
    """Return the style vector [1,VECTOR] of a preset, by its number."""
    return _numpy(networks["preset"]({"index": np.full((1, 1), number, np.float32)})["vector"])


def encode(networks: Mapping[str, Any], painting: np.ndarray) -> np.ndarray:
    """Return the style vector [1,VECTOR] of uint8 (height, width, 3)."""
    return _numpy(networks["encode"]({"style": reduce_picture(painting, STYLE_SIDE)})["vector"])


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(values))
