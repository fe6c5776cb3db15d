"""`stylize/presets`: a picture painted in the style of one of the presets, in one pass.

    python -m training train stylize_presets --from models/published/stylize/any/3
    python -m training evaluate stylize_presets

`docs/training/results.md` has the figures it reached and its targets. The network is that of `stylize/any`, with a
learned vector for each style in the place of the encoder (conditional instance normalization, Dumoulin et al. 2017,
arXiv 1610.07629). Gram matrices of the painting, at two sizes, make it paint strokes and not only in the colors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.architectures import style_painter
from training.architectures.style_optimizer import grams
from training.data.crops import validation_split
from training.data.packs import Packs
from training.evaluation import previews, stylization
from training.evaluation.stylization import (
    CONTENT,
    STYLE,
    PairTargets,
    PerceptualMetric,
    contents,
    load_perceptual_metric,
    moments,
    square,
    tables,
)
from training.evaluation.tables import ResultTable
from training.recipe import Batch, NotSupported, Part
from training.recipes.stylize_any import (
    STATISTICS_SIDE,
    StylizeAny,
    as_float32,
    build_fast_vgg,
    draw_picture,
    gram_distance,
    paint,
    preset_vector,
    variation,
)

SIZE = 224
STYLE_SIDES = {256: 0.5, 416: 0.5}
"""The sizes of the paintings whose statistics are learned, and how much each counts: fine strokes, and broad ones."""
STYLE_WEIGHT, GRAM_WEIGHT, IDENTITY_WEIGHT, VARIATION_WEIGHT = 1.6, 2.6, 10.0, 2.0
LEFT_OUT = ("senecio", "the-kiss-klimt")
"""Presets that are trained and not published: dark places of soft pictures get spots of magenta in them."""
PHOTOGRAPHS, EVERY_STYLE = 2, 4
"""Held-out photographs, and which of the styles are measured while it trains."""


class StylizePresets(StylizeAny):
    title = "Presets"
    description = "Paints a picture in the style of a well-known painting, in one pass."
    architecture = "Transformer network, instance normalization by a learned vector for each style at every depth"
    packs = ("photos", "content", "styles")
    defaults = {"statistics_side": STATISTICS_SIDE}
    card = (
        "It started from stylize/any@2; 250 steps with a higher weight of the style came before those that are listed. "
        "Published are weights 85 % of the way from there to the trained ones, which keep more of the content. The "
        "preset after the named ones leaves the picture nearly as it is; it is mixed in for a lower strength."
    )

    def build_parts(self) -> dict[str, Part]:
        return {"painter": PresetPainter()}

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> dict[str, keras.Model]:
        """Return the networks that paint and measure, and the one that gives the vectors of the presets that are
        listed, and then that for the picture as it is."""
        parts = style_painter.split(networks["painter"])
        (vectors,) = networks["painter"].get_layer("presets").get_weights()
        return parts | {"preset": style_painter.presets(vectors[[*self._published(packs), len(vectors) - 1]])}

    def _published(self, packs: Packs) -> list[int]:
        """Return the numbers of the presets that are not left out, among all."""
        return [number for number, style in enumerate(super().styles(packs)) if style["name"] not in LEFT_OUT]

    def styles(self, packs: Packs) -> list[dict[str, str]]:
        """Return name, title, artist and year of each preset but those that are left out."""
        known = super().styles(packs)
        return [known[number] for number in self._published(packs)]

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the distances of pictures in the style of the presets."""
        known = stylization.presets(packs)
        paintings = [known[number] for number in self._published(packs)]

        def painted(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
            number = next(n for n, one in enumerate(paintings) if one is painting)
            return paint(networks, picture, preset_vector(networks, number))

        methods = {"stylize/presets": painted}
        return tables(methods, packs, self.command, pictures=contents(packs)[::2], paintings=paintings)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Raises NotSupported: the service paints at the size of its canvas."""
        raise NotSupported(f"{self.id} cannot be evaluated through a service; leave out --url")


class PresetPainter(Part):
    """The transformer network with a vector for each preset, trained with statistics of VGG19's activations."""

    batch = 4
    learning_rate = 1e-3
    steps_per_epoch = 25
    hours = 1.3
    styles = 16

    def __init__(self) -> None:
        super().__init__()
        self._metric: PerceptualMetric | None = None
        self._vgg: keras.Model | None = None
        self._moments: Any = None
        self._grams: dict[str, Any] = {}

    def network(self) -> keras.Model:
        """Return a new transformer network for the presets, and for the picture as it is."""
        return style_painter.build_for_presets(self.styles + 1)

    def convert_weights(self, stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the weights of `stylize/any`, its vectors of the presets followed by one for the picture as it is."""
        vectors = stored.get("presets/0")
        if vectors is None or len(vectors) > self.styles:
            return stored
        return {**stored, "presets/0": np.concatenate([vectors, np.zeros_like(vectors[:1])])}

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `image` uint8 (N,SIZE,SIZE,3) and `index` int32 (N,1), the number of its style."""
        photographs, _ = validation_split([*packs.pictures("photos/train"), *packs.pictures("content/train")])
        self._metric, self._vgg = load_perceptual_metric(packs), build_fast_vgg(packs)
        self._measure_styles(packs)

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index])
            images = [draw_picture(photographs, SIZE, random) for _ in range(batch)]
            styles = random.permutation(self.styles)[np.arange(batch) % self.styles]
            return {"image": np.stack(images), "index": styles[:, None].astype(np.int32)}

        return make

    def _measure_styles(self, packs: Packs) -> None:
        """Keep the mean moments and Gram matrices of each preset, over its sizes."""
        assert self._metric is not None
        means: list[Any] = []
        products: dict[str, list[Any]] = {name: [] for name in STYLE}
        for picture in packs.pictures("styles/presets"):
            seen = {
                side: self._metric.activations((square(picture, side)[None] / 255).astype(np.float32))
                for side in STYLE_SIDES
            }
            means.append(sum(share * moments(seen[side]) for side, share in STYLE_SIDES.items()))
            for name, found in products.items():
                found.append(sum(share * grams(seen[side][name]) for side, share in STYLE_SIDES.items()))
        self._moments = ops.concatenate(means)
        self._grams = {name: ops.concatenate(found) for name, found in products.items()}

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return terms of content, of style (moments and Gram matrices) and of variation, and the error of a picture
        that is left as it is."""
        assert self._metric is not None, "batches loads it"
        assert self._vgg is not None
        image, index = ops.cast(batch["image"], "float32") / 255.0, batch["index"]
        painted = network({"image": image, "index": index})["image"]
        seen, photograph, number = self._vgg(painted), as_float32(self._vgg(image)), index[:, 0]
        found = as_float32(seen)
        content = ops.mean(self._metric.content_distance(found, {name: photograph[name] for name in CONTENT}))
        style = ops.mean(self._metric.style_distance(moments(found), ops.take(self._moments, number, axis=0)))
        wanted = {name: ops.take(known, number, axis=0) for name, known in self._grams.items()}
        same = network({"image": image[:1], "index": ops.full_like(index[:1], self.styles)})["image"]
        return (
            content
            + STYLE_WEIGHT * style
            + GRAM_WEIGHT * gram_distance(seen, wanted)
            + IDENTITY_WEIGHT * ops.mean(ops.square(same - image[:1]))
            + VARIATION_WEIGHT * variation(painted)
        )

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, list[PairTargets]]]:
        """Return held-out photographs, float32 (1,256,256,3), each with the targets of every preset."""
        metric = load_perceptual_metric(packs)
        paintings = [(picture[None] / 255).astype(np.float32) for picture in stylization.presets(packs)]
        found = []
        for picture in validation_split(packs.pictures("photos/train"))[1][1::5][:PHOTOGRAPHS]:
            image = (square(picture)[None] / 255).astype(np.float32)
            found.append((image, [metric.targets(image, painting) for painting in paintings]))
        return found

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean style and content distance over the held-out photographs in some of the presets, and the PSNR
        of those that are left as they are (dB)."""
        metric, distances, errors = load_perceptual_metric(packs), [], []
        for image, targets in self.held_out(packs):
            numbers = range(0, self.styles, EVERY_STYLE)
            distances += [metric.distances(_run(network, image, number), targets[number]) for number in numbers]
            errors.append(float(np.mean(np.square(_run(network, image, self.styles) - image))))
        style, content = np.mean(distances, axis=0).tolist()
        return {"style": style, "content": content, "identity": float(-10 * np.log10(np.mean(errors)))}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return every photograph (across) in every style (down)."""
        images = [image for image, _ in self.held_out(packs)]
        rows = [[_run(network, image, number)[0] for image in images] for number in range(self.styles + 1)]
        return previews.grid([[image[0] for image in images], *rows])


def _run(network: keras.Model, image: np.ndarray, number: int) -> np.ndarray:
    index = np.full((1, 1), number, np.float32)
    return np.asarray(ops.convert_to_numpy(network({"image": image, "index": index})["image"]))
