"""`superres/photo`: photographs two, three and four times as large, one network a scale.

    python -m training train superres_photo --hours 3       # two cores; 0.4 on an accelerator
    python -m training evaluate superres_photo

`docs/rows.md` says what it reached and what it should. x4 is trained first, x3 and x2 start from its body. The small
picture is MATLAB's bicubic reduction rounded to 8 bit, as the literature has it; that is not how real pictures are
made, so real ones gain less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from training import sheets
from training.architectures import residual_upscaler
from training.data.crops import Crops, validation_split
from training.data.imresize import imresize, matrix
from training.data.packs import Packs
from training.metrics import psnr
from training.recipe import Batch, Part, Recipe

# Low-resolution pixels of a crop, and how many of them at each side are left out of it after the reduction: the
# mirrored edge that imresize makes there is no part of the picture. Crops are large and few: in one of 36 pixels two
# thirds lie within 8 of a border, where the network sees zeros that pictures hardly have.
PATCH, EDGE = 64, 4


def batches(packs: Packs, seed: int, batch: int, scale: int, patch: int = PATCH) -> Callable[[int], Batch]:
    """Return large crops `clean`, uint8 (N, size, size, 3)."""
    training, _ = validation_split(packs.pictures("photos/train"))
    crops = Crops(training, (patch + 2 * EDGE) * scale, batch, seed)
    return lambda index: {"clean": crops(index)}


def reduce(clean: Any, scale: int) -> tuple[Any, Any]:
    """Return (small, large) from crops [N,size,size,3] in [0, 1]: reduced, rounded to 8 bit, without the edge."""
    size = clean.shape[1]
    weights = ops.convert_to_tensor(matrix(size, size // scale).astype("float32"))
    small = ops.einsum("ih,nhwc->niwc", weights, ops.einsum("jw,nhwc->nhjc", weights, clean))
    small = ops.round(ops.clip(small, 0.0, 1.0) * 255.0) / 255.0
    edge = EDGE * scale
    return small[:, EDGE:-EDGE, EDGE:-EDGE], clean[:, edge:-edge, edge:-edge]


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator, scale: int) -> Any:
    """Mean absolute error."""
    small, large = reduce(ops.cast(batch["clean"], "float32") / 255.0, scale)
    return ops.mean(ops.abs(network({"image": small})["image"] - large))


def _held_out(packs: Packs, scale: int, size: int = 240) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (small, large) of the middles of ten pictures that training never sees, float32 in [0, 1]."""
    if scale not in _CACHE:
        _, kept = validation_split(packs.pictures("photos/train"))
        pairs = []
        for picture in kept[:10]:
            top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
            large = picture[top : top + size, left : left + size]
            small = np.clip(np.rint(imresize(large, size // scale, size // scale)), 0, 255)
            pairs.append(((small / 255).astype(np.float32), (large / 255).astype(np.float32)))
        _CACHE[scale] = pairs
    return _CACHE[scale]


_CACHE: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}


def _run(network: keras.Model, small: np.ndarray) -> np.ndarray:
    return np.clip(ops.convert_to_numpy(network({"image": small[None]})["image"])[0], 0, 1)


def validate(network: keras.Model, packs: Packs, scale: int) -> dict[str, float]:
    """Return the mean RGB PSNR (dB) of ten held-out middles, and that of bicubic beside it."""
    ours, bicubic = [], []
    for small, large in _held_out(packs, scale):
        ours.append(psnr(_run(network, small) * 255, large * 255))
        bicubic.append(psnr(np.clip(imresize(small, *large.shape[:2]), 0, 1) * 255, large * 255))
    return {"psnr": float(np.mean(ours)), "bicubic": float(np.mean(bicubic))}


def sheet(network: keras.Model, packs: Packs, scale: int) -> np.ndarray:
    """Return rows of bicubic | ours | the large picture."""
    rows = []
    for small, large in _held_out(packs, scale)[:6]:
        rows.append([np.clip(imresize(small, *large.shape[:2]), 0, 1), _run(network, small), large])
    return sheets.grid(rows)


def _part(scale: int, hours: float, start: str | None) -> Part:
    return Part(
        network=partial(residual_upscaler.build, scale),
        loss=partial(loss, scale=scale),
        batches=partial(batches, scale=scale),
        validate=partial(validate, scale=scale),
        sheet=partial(sheet, scale=scale),
        learning_rate=8e-4 if start is None else 4e-4,
        hours=hours,
        batch=5,
        steps_per_epoch=25,
        start=start,
    )


def recipe() -> Recipe:
    from training.evaluate import service_superresolution, superresolution

    return Recipe(
        task="superres",
        name="photo",
        title="Photographs",
        description="Photographs two, three or four times as large.",
        architecture="Plain residual blocks at the small picture's resolution (after EDSR), one network a scale",
        packs=("photos",),
        parts={"x4": _part(4, 1.4, None), "x2": _part(2, 0.8, "x4"), "x3": _part(3, 0.8, "x4")},
        geometry={"kind": "tiled", "multiple": 1, "tile_size": 256, "tile_step": 32, "halo": None},
        evaluate=superresolution,
        evaluate_service=service_superresolution,
    )
