"""`inpaint/mountain` (row 7): square holes in pictures of mountains, by the founding article's skip-connection network.

    python -m training train inpaint_mountain --hours 0.5
    python -m training evaluate inpaint_mountain

Wanted: 0.7 dB over the best classical method in holes of 22 px at 100 px, which are the article's 50 at 228;
`docs/rows.md` says what it reached. It sees the mask, and adds to a smooth fill; `inpaint_mountain_autoencoder` is the
article's own, which sees neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training import sheets
from training.architectures import valid_autoencoder
from training.architectures.inpainter import PushPull
from training.data.crops import validation_split
from training.data.packs import Packs
from training.inpainting import CLASSICAL, Fill, hole_loss, in_hole_psnr
from training.recipe import Batch, Part, Recipe
from training.service import Service
from training.tables import Table, tell

SIZE, HOLE = 100, 22


def network() -> keras.Model:
    """Return {image [N,H,W,3], mask [N,H,W,1]} -> image [N,H,W,3]; height and width leave 4 when divided by 8."""
    image, mask = keras.Input((None, None, 3), name="image"), keras.Input((None, None, 1), name="mask")
    fill = PushPull(name="fill")(image, mask)
    features = valid_autoencoder.build(ops.concatenate([fill - 0.5, mask], axis=-1))
    start = keras.initializers.VarianceScaling(0.01, "fan_in", "truncated_normal")
    added = layers.Conv2D(3, 3, padding="same", kernel_initializer=start, name="exit", dtype="float32")(features)
    return keras.Model({"image": image, "mask": mask}, {"image": fill + mask * added}, name="inpaint_mountain")


def square(random: np.random.Generator) -> np.ndarray:
    """Return bool (SIZE, SIZE) with one square hole of HOLE pixels."""
    missing = np.zeros((SIZE, SIZE), bool)
    top, left = random.integers(SIZE - HOLE + 1, size=2)
    missing[top : top + HOLE, left : left + HOLE] = True
    return missing


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return `image` uint8 (N,100,100,3), half of them mirrored, and `mask` uint8 (N,100,100,1)."""
    mountains, _ = validation_split(packs.pictures("mountain/train"))

    def make(index: int) -> Batch:
        random = np.random.default_rng([seed, index])
        chosen = [mountains[i] for i in random.integers(len(mountains), size=batch)]
        pictures = [picture[:, :: 1 if random.random() < 0.5 else -1] for picture in chosen]
        masks = [square(random)[..., None].astype(np.uint8) for _ in chosen]
        return {"image": np.stack(pictures), "mask": np.stack(masks)}

    return make


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """How far what is made up is from the picture: see `hole_loss`."""
    image, mask = ops.cast(batch["image"], "float32") / 255.0, ops.cast(batch["mask"], "float32")
    return hole_loss(network(_given(network, image * (1.0 - mask), mask))["image"], image, mask)


def _given(network: keras.Model, image: Any, mask: Any) -> dict[str, Any]:
    """Return the inputs that `network` has: the article's knows no mask."""
    return {"image": image, "mask": mask} if "mask" in network.input else {"image": image}


def run(network: keras.Model, picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return uint8 (height, width, 3) with what is `missing` filled."""
    mask = missing[None, ..., None].astype(np.float32)
    image = (picture[None] / 255).astype(np.float32) * (1 - mask)
    found = ops.convert_to_numpy(network(_given(network, image, mask))["image"])[0]
    return np.where(missing[..., None], np.clip(np.rint(found * 255), 0, 255).astype(np.uint8), picture)


def _scenes(pictures: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(picture, square(np.random.default_rng(number))) for number, picture in enumerate(pictures)]


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the mean PSNR (dB) inside the holes of the held-out pictures."""
    _, kept = validation_split(packs.pictures("mountain/train"))
    found = [in_hole_psnr(run(network, picture, hole), picture, hole) for picture, hole in _scenes(kept)]
    return {"psnr": float(np.mean(found))}


def sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return rows of damaged | ours | the picture."""
    _, kept = validation_split(packs.pictures("mountain/train"))
    rows = []
    for picture, missing in _scenes(kept[:8]):
        damaged = np.where(missing[..., None], np.uint8(0), picture)
        rows.append([one.astype(np.float32) / 255 for one in (damaged, run(network, picture, missing), picture)])
    return sheets.grid(rows)


def tables(fills: Mapping[str, Fill], packs: Packs, command: str) -> list[Table]:
    """Return what `fills` reach on mountain/test, in dB inside the holes."""
    tell(command)
    rows: list[list[str | float]] = []
    scenes = _scenes(packs.pictures("mountain/test"))
    for name, fill in fills.items():
        values = []
        for picture, missing in scenes:
            damaged = np.where(missing[..., None], np.uint8(0), picture)
            values.append(in_hole_psnr(fill(damaged, missing), picture, missing))
        rows.append([name, float(np.mean(values))])
    return [Table(f"mountain/test, holes of {HOLE}×{HOLE} px, dB inside", command, ["", "PSNR"], rows)]


def recipe_of(name: str, build: Callable[[], keras.Model], title: str, description: str, architecture: str) -> Recipe:
    """Return the recipe of a network for mountains."""
    part = Part(
        network=build,
        loss=loss,
        batches=batches,
        validate=validate,
        sheet=sheet,
        learning_rate=1e-3,
        hours=0.5,
    )
    command = f"python -m training evaluate inpaint_{name.replace('-', '_')}"

    def evaluate(networks: Mapping[str, keras.Model], packs: Packs) -> list[Table]:
        return tables({**CLASSICAL, f"inpaint/{name}": partial(run, networks["inpaint"])}, packs, command)

    def evaluate_service(url: str, packs: Packs) -> list[Table]:
        methods: dict[str, Fill] = {
            f"inpaint/{model}, served": partial(Service(url).inpaint, method="neural", model=model)
            for model in (name, "photo")
        }
        return tables(methods, packs, f"{command} --url {url}")

    return Recipe(
        task="inpaint",
        name=name,
        title=title,
        description=description,
        architecture=architecture,
        packs=("mountain",),
        parts={"inpaint": part},
        geometry={"kind": "whole", "size_rule": {"modulus": 8, "remainder": 4}},
        evaluate=evaluate,
        evaluate_service=evaluate_service,
    )


def recipe() -> Recipe:
    return recipe_of(
        "mountain",
        network,
        title="Mountains",
        description="Holes in small pictures of mountains.",
        architecture="Autoencoder of valid convolutions with skip connections, over a push-pull fill, with the mask",
    )
