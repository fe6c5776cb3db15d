"""`stylize/any` (row 11): a picture painted in the manner of any other, in one pass.

    python -m training train stylize_any --hours 2          # two cores; 0.2 on an accelerator
    python -m training evaluate stylize_any

`docs/rows.md` says what it reached and what it should. VGG19 judges: the painting's activations should be the
picture's, their means and deviations the style's; a picture in its own style should stay what it is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import cv2
import keras
import numpy as np
from keras import ops
from PIL import Image

from training import sheets, stylization
from training.architectures import style_painter
from training.data.crops import validation_split
from training.data.packs import Packs
from training.recipe import Batch, Part, Recipe
from training.service import Service
from training.stylization import (
    STYLE_SIDE,
    WEIGHTS,
    Judge,
    Sight,
    contents,
    judge,
    moments,
    square,
    tables,
)
from training.tables import Table

SIZE, STYLE_SIZE = 128, 192
STYLE_WEIGHT, IDENTITY_WEIGHT, VARIATION_WEIGHT = 2.0, 10.0, 2.0
VIEWS = 6
"""Parts of each style that are learned from; of the last half the colours are swapped, but for presets."""
PRESETS = 0.4
"""The share of samples that learn a preset: what is asked for most should look best."""
PAIRS = 5
MULTIPLE, HALO = 4, 56
"""All that a pixel depends on, beside the moments, is less than HALO pixels away."""
STATISTICS_SIDE = 512
"""Pixels a side of a square with as many as the picture that moments are measured on has at most."""
_JUDGE: list[Judge] = []


class Styles:
    """Views of paintings and of presets, each with its moments, which are computed when it is first drawn."""

    def __init__(self, paintings: list[np.ndarray], presets: list[np.ndarray], critic: Judge) -> None:
        self.pictures, self.known, self.critic = [*presets, *paintings], len(presets), critic
        self.seen: dict[tuple[int, int], np.ndarray] = {}

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 (STYLE_SIZE, STYLE_SIZE, 3) and what it should be like, float32 (channels,)."""
        preset = random.random() < PRESETS
        number = random.integers(self.known) if preset else random.integers(self.known, len(self.pictures))
        return self._view(int(number), int(random.integers(VIEWS)))

    def _view(self, number: int, view: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([number, view])
        picture = crop(self.pictures[number], STYLE_SIZE, random, least=0.6)
        if number >= self.known and view >= VIEWS // 2:
            picture = np.ascontiguousarray(picture[..., random.permutation(3)])
        if (number, view) not in self.seen:
            activations = self.critic.activations((picture[None] / 255).astype(np.float32))
            self.seen[number, view] = ops.convert_to_numpy(moments(activations))[0]
        return picture, self.seen[number, view]


def crop(picture: np.ndarray, size: int, random: np.random.Generator, least: float) -> np.ndarray:
    """Return a square part, `least` to 1 of the shorter side, as uint8 (size, size, 3), mirrored half of the time."""
    height, width = picture.shape[:2]
    side = round(min(height, width) * random.uniform(least, 1))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    part = cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(part[:, ::-1] if random.random() < 0.5 else part)


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return `image` uint8 (N,size,size,3), `style` uint8 (N,STYLE_SIZE,STYLE_SIZE,3) and its `moments`."""
    photographs, _ = validation_split(packs.pictures("photos/train"))
    _JUDGE[:] = [judge(packs)]  # the loss knows no packs
    paintings, _ = validation_split(packs.pictures("styles/train"))
    styles = Styles(paintings, packs.pictures("styles/presets"), _JUDGE[0])

    def make(index: int) -> Batch:
        random = np.random.default_rng([seed, index])
        images = [crop(photographs[random.integers(len(photographs))], SIZE, random, least=0.4) for _ in range(batch)]
        pictures, wanted = zip(*(styles.draw(random) for _ in range(batch)), strict=True)
        return {"image": np.stack(images), "style": np.stack(pictures), "moments": np.stack(wanted)}

    return make


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """Content, style, variation, and what a picture in its own style loses."""
    critic = _JUDGE[0]
    image, style = (ops.cast(batch[name], "float32") / 255.0 for name in ("image", "style"))
    painted = network({"image": image, "style": style})["image"]
    seen = critic.activations(painted)
    content = ops.mean(critic.content_distance(seen, critic.activations(image)))
    manner = ops.mean(critic.style_distance(moments(seen), batch["moments"]))
    same = network({"image": image[:1], "style": image[:1]})["image"]
    identity = ops.mean(ops.square(same - image[:1]))
    return content + STYLE_WEIGHT * manner + IDENTITY_WEIGHT * identity + VARIATION_WEIGHT * _variation(painted)


def _variation(image: Any) -> Any:
    down, right = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    return ops.mean(ops.square(down)) + ops.mean(ops.square(right))


@lru_cache(maxsize=1)
def _pairs(packs: Packs) -> list[tuple[np.ndarray, np.ndarray, Sight]]:
    """Return held-out photographs and styles, float32 (1,256,256,3), and what the judge sees of each pair."""
    photographs = validation_split(packs.pictures("photos/train"))[1][1::3][:PAIRS]
    paintings = validation_split(packs.pictures("styles/train"))[1][::2][:PAIRS]
    found = []
    for pictures in zip(photographs, paintings, strict=True):
        image, style = ((square(picture)[None] / 255).astype(np.float32) for picture in pictures)
        found.append((image, style, judge(packs).sight(image, style)))
    return found


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the mean style and content distance over the pairs; untouched pictures have a style of 1."""
    distances = [
        judge(packs).distances(network({"image": image, "style": style})["image"], sight)
        for image, style, sight in _pairs(packs)
    ]
    style, content = np.mean(distances, axis=0).tolist()
    return {"style": style, "content": content}


def sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return every picture (down) in every style (across)."""
    pairs = _pairs(packs)
    rows = [[np.ones_like(pairs[0][0][0]), *(style[0] for _, style, _ in pairs)]]
    for image, _, _ in pairs:
        painted = [network({"image": image, "style": style})["image"] for _, style, _ in pairs]
        rows.append([image[0], *(ops.convert_to_numpy(picture)[0] for picture in painted)])
    return sheets.grid(rows)


def presets(packs: Packs) -> list[dict[str, str]]:
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


def serve(networks: Mapping[str, keras.Model], packs: Packs) -> dict[str, keras.Model]:
    """Return what paints, measures and encodes, and the vectors of the presets."""
    parts = style_painter.split(networks["painter"])
    pictures = [reduced(picture, STYLE_SIDE) for picture in packs.pictures("styles/presets")]
    vectors = [ops.convert_to_numpy(parts["encode"]({"style": picture})["vector"])[0] for picture in pictures]
    return parts | {"preset": style_painter.presets(np.stack(vectors))}


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture with about as many pixels as a square of `side`, as the service reduces it: [1,h,w,3]."""
    height, width = picture.shape[:2]
    factor = min(1.0, side / np.sqrt(height * width))
    tall, wide = (round(length * factor / MULTIPLE) * MULTIPLE for length in (height, width))
    resized = cv2.resize(picture, (wide, tall), interpolation=cv2.INTER_AREA)
    return (resized[None] / 255).astype(np.float32)


def paint(networks: Mapping[str, Any], picture: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return uint8 `picture` (height, width, 3), sides multiples of 4, painted by served `networks`."""
    image = (picture[None] / 255).astype(np.float32)
    small = reduced(picture, STATISTICS_SIDE)
    measured = _numpy(networks["statistics"]({"image": small, "vector": vector})["moments"])
    painted = _numpy(networks["paint"]({"image": image, "vector": vector, "moments": measured})["image"])[0]
    return np.rint(np.clip(painted, 0, 1) * 255).astype(np.uint8)


def encode(networks: Mapping[str, Any], painting: np.ndarray) -> np.ndarray:
    """Return the style vector [1,VECTOR] of uint8 (height, width, 3)."""
    return _numpy(networks["encode"]({"style": reduced(painting, STYLE_SIDE)})["vector"])


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(values))


def evaluate(networks: Mapping[str, Any], packs: Packs) -> list[Table]:
    """Return how near the model comes to paintings that it never saw, and to its presets."""
    command = "python -m training evaluate stylize_any"

    def painted(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
        return paint(networks, picture, encode(networks, painting))

    found = tables({"stylize/any": painted}, packs, command)
    own = {"stylize/any, in the manner of its presets": painted}
    return found + tables(own, packs, command, pictures=contents(packs)[::2], paintings=stylization.presets(packs))


def evaluate_service(url: str, packs: Packs) -> list[Table]:
    """Return the same of unseen paintings, through the service at `url`. Raises ServiceProblem."""
    return tables(
        {"stylize/any, served": Service(url).stylize}, packs, f"python -m training evaluate stylize_any --url {url}"
    )


def files(networks: Mapping[str, Any], packs: Packs) -> dict[str, bytes]:
    """Return a small photograph painted in each preset, WebP."""
    import skimage.data  # which the accelerator's machine has not

    photograph = cv2.resize(skimage.data.chelsea()[:, 60:360], (256, 256), interpolation=cv2.INTER_AREA)
    found = {}
    for number, style in enumerate(presets(packs)):
        vector = _numpy(networks["preset"]({"index": np.full((1, 1), number, np.float32)})["vector"])
        file = io.BytesIO()
        Image.fromarray(paint(networks, photograph, vector)).save(file, "webp", quality=80, method=6)
        found[f"styles/{style['name']}.webp"] = file.getvalue()
    return found


def recipe() -> Recipe:
    part = Part(
        network=style_painter.build,
        loss=loss,
        batches=batches,
        validate=validate,
        sheet=sheet,
        batch=4,
        learning_rate=1e-3,
        steps_per_epoch=25,
        hours=2.0,
    )
    return Recipe(
        task="stylize",
        name="any",
        title="Any style",
        description="A picture painted in the manner of any other, in one pass.",
        architecture="Transformer network, instance normalisation by a style vector at every depth",
        packs=("photos", "styles"),
        weights=(WEIGHTS,),
        parts={"painter": part},
        geometry={"kind": "tiled", "multiple": MULTIPLE, "tile_size": 768, "tile_step": 128, "halo": HALO},
        defaults={"statistics_side": STATISTICS_SIDE, "style_side": STYLE_SIDE},
        inputs={
            "vector": {"range": None, "meaning": "the style, as `encode` or `preset` gives it"},
            "moments": {"range": None, "meaning": "means and logarithms of deviations, of the whole picture, reduced"},
            "style": {"meaning": "a picture in the style"},
            "index": {"range": None, "meaning": "the number of a preset, from 0"},
        },
        evaluate=evaluate,
        evaluate_service=evaluate_service,
        serve=serve,
        styles=presets,
        files=files,
    )
