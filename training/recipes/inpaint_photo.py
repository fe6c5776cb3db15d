"""`inpaint/photo`: what is missing from a photograph, by a network that adds to a smooth fill.

    python -m training train inpaint_photo --hours 2        # two cores; 0.4 on an accelerator
    python -m training evaluate inpaint_photo

`docs/rows.md` says what it reached and what it should. Holes are strokes, boxes, the silhouettes of people, and
scratches, drawn anew for every sample; only what is missing counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from training import sheets
from training.architectures import inpainter
from training.data.crops import Crops, validation_split
from training.data.holes import BINS, holes, scratches
from training.data.packs import Packs
from training.inpainting import SCRATCHES, hole_loss, in_hole_psnr, photo_tables, service_tables, silhouettes
from training.recipe import Batch, Part, Recipe

SIZE = 128
SIZES = ((128, 128), (256, 256))
KINDS = len(BINS) + 1
"""Holes by the share that is missing, and scratches: equally often."""


def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
    """Return crops `image` uint8 (N,size,size,3) and what is missing of them, `mask` uint8 (N,size,size,1)."""
    training, _ = validation_split(packs.pictures("photos/train"))
    crops, people = Crops(training, SIZE, batch, seed), silhouettes(packs, "train")

    def make(index: int) -> Batch:
        random = np.random.default_rng([seed, index, 1])
        missing = [damage(SIZE, int(random.integers(KINDS)), random, people) for _ in range(batch)]
        return {"image": crops(index), "mask": np.stack(missing)[..., None].astype(np.uint8)}

    return make


def damage(
    size: int, kind: int, random: np.random.Generator, people: Sequence[np.ndarray], most: int = SCRATCHES
) -> np.ndarray:
    """Return bool (size, size): holes of `BINS[kind]`, or up to `most` scratches where that is no bin."""
    if kind < len(BINS):
        return holes((size, size), BINS[kind], random, people)
    return scratches((size, size), int(random.integers(2, most + 1)), random)


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """How far what is made up is from the picture: see `hole_loss`."""
    image, mask = ops.cast(batch["image"], "float32") / 255.0, ops.cast(batch["mask"], "float32")
    return hole_loss(network({"image": image * (1.0 - mask), "mask": mask})["image"], image, mask)


def _held_out(packs: Packs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (picture, missing) of the middles of pictures that training never sees, four of a kind."""
    if not _CACHE:
        _, kept = validation_split(packs.pictures("photos/train"))
        people = silhouettes(packs, "val")
        for number, picture in enumerate(kept[: 4 * KINDS]):
            top, left = (picture.shape[0] - 256) // 2, (picture.shape[1] - 256) // 2
            missing = damage(256, number % KINDS, np.random.default_rng(number), people)
            _CACHE.append((picture[top : top + 256, left : left + 256], missing))
    return _CACHE


_CACHE: list[tuple[np.ndarray, np.ndarray]] = []


def run(network: keras.Model, picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return uint8 (height, width, 3) filled by `network`; sides are multiples of 64."""
    mask = missing[None, ..., None].astype(np.float32)
    image = (picture[None] / 255).astype(np.float32) * (1 - mask)
    found = ops.convert_to_numpy(network({"image": image, "mask": mask})["image"])[0]
    return np.clip(np.rint(found * 255), 0, 255).astype(np.uint8)


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the mean PSNR (dB) inside the holes of sixteen held-out middles."""
    found = [in_hole_psnr(run(network, picture, missing), picture, missing) for picture, missing in _held_out(packs)]
    return {"psnr": float(np.mean(found))}


def sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return rows of damaged | ours | the picture."""
    rows = []
    for picture, missing in _held_out(packs)[: 2 * KINDS]:
        damaged = np.where(missing[..., None], np.uint8(255), picture)
        rows.append([one.astype(np.float32) / 255 for one in (damaged, run(network, picture, missing), picture)])
    return sheets.grid(rows)


def recipe() -> Recipe:
    part = Part(
        network=inpainter.build,
        loss=loss,
        batches=batches,
        validate=validate,
        sheet=sheet,
        batch=8,
        learning_rate=8e-4,
        steps_per_epoch=25,
        hours=2.0,
    )
    return Recipe(
        task="inpaint",
        name="photo",
        title="Photographs",
        description="What is missing from a photograph, made up from what is around it.",
        architecture="Push-pull fill, and a residual U-Net of dilated blocks that adds to it",
        packs=("photos", "person"),
        parts={"inpaint": part},
        geometry={"kind": "canonical", "multiple": 64, "canonical_sizes": list(SIZES)},
        evaluate=lambda networks, packs: photo_tables(
            lambda picture, missing: run(networks["inpaint"], picture, missing), silhouettes(packs, "test"), packs
        ),
        evaluate_service=lambda url, packs: service_tables(url, silhouettes(packs, "test"), packs),
    )
