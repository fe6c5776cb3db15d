"""`superres/photo`: photographs two, three and four times as large, one network for each scale.

    python -m training train superres_photo --hours 3       # two cores; 0.4 on an accelerator
    python -m training evaluate superres_photo

`docs/training/results.md` has its figures and targets. x4 is trained first, x3 and x2 start from its body.
The small picture is MATLAB's bicubic reduction rounded to 8 bit, as in the literature; real pictures are not made
that way, so they gain less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.architectures import residual_upscaler
from training.data.crops import Crops, crop_center, validation_split
from training.data.imresize import imresize, matrix
from training.data.packs import Packs
from training.evaluation import photos, previews
from training.evaluation.metrics import psnr
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe

# Low-resolution pixels of a crop, and how many of them at each side are left out of it after the reduction: the
# mirrored edge that imresize makes there is no part of the picture. Crops are large and few: in one of 36 pixels two
# thirds lie within 8 of a border, where the network sees zeros that pictures hardly have.
PATCH, EDGE = 64, 4
HELD_OUT_SIZE = 240


class SuperresPhoto(Recipe):
    title = "Photographs"
    description = "Enlarges photographs two, three or four times."
    architecture = "Plain residual blocks at the small picture's resolution (after EDSR), one network per scale"
    packs = ("photos",)
    geometry = {"kind": "tiled", "multiple": 1, "tile_size": 256, "tile_step": 32, "halo": None}

    def build_parts(self) -> dict[str, Part]:
        return {"x4": Upscale(4, hours=1.4), "x2": FineTune(2, hours=0.8), "x3": FineTune(3, hours=0.8)}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of enlargement, measured on the test photographs."""
        return photos.measure_superresolution(networks, packs)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables, measured through the service at `url`."""
        return photos.measure_superresolution_service(url, packs)


class Upscale(Part):
    """A network that enlarges photographs `scale` times; `patch` is the size of its crops in small pixels."""

    batch = 5
    learning_rate = 8e-4
    steps_per_epoch = 25
    bfloat16 = True
    patch = PATCH

    def __init__(self, scale: int, hours: float) -> None:
        super().__init__()
        self.scale, self.hours = scale, hours

    def network(self) -> keras.Model:
        """Return a new upscaler for the scale of this part."""
        return residual_upscaler.build(self.scale)

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return large crops `clean`, uint8 (N, size, size, 3)."""
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = Crops(training, (self.patch + 2 * EDGE) * self.scale, batch, seed)
        return lambda index: {"clean": crops(index)}

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean absolute error."""
        small, large = reduce(ops.cast(batch["clean"], "float32") / 255.0, self.scale)
        return ops.mean(ops.abs(network({"image": small})["image"] - large))

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (small, large) of the centers of ten held-out pictures, float32 in [0, 1]."""
        _, kept = validation_split(packs.pictures("photos/train"))
        pairs = []
        for picture in kept[:10]:
            large = crop_center(picture, HELD_OUT_SIZE)
            side = HELD_OUT_SIZE // self.scale
            small = np.clip(np.rint(imresize(large, side, side)), 0, 255)
            pairs.append(((small / 255).astype(np.float32), (large / 255).astype(np.float32)))
        return pairs

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean RGB PSNR (dB) of the held-out pictures, and that of bicubic beside it."""
        ours, bicubic = [], []
        for small, large in self.held_out(packs):
            ours.append(psnr(_run(network, small) * 255, large * 255))
            bicubic.append(psnr(np.clip(imresize(small, *large.shape[:2]), 0, 1) * 255, large * 255))
        return {"psnr": float(np.mean(ours)), "bicubic": float(np.mean(bicubic))}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of bicubic | ours | the large picture."""
        rows = []
        for small, large in self.held_out(packs)[:6]:
            rows.append([np.clip(imresize(small, *large.shape[:2]), 0, 1), _run(network, small), large])
        return previews.grid(rows)


class FineTune(Upscale):
    """The same from the body of x4."""

    learning_rate = 4e-4
    start = "x4"


def reduce(clean: Any, scale: int) -> tuple[Any, Any]:
    """Return (small, large) from crops [N,size,size,3] in [0, 1]: reduced, rounded to 8 bit, without the edge."""
    size = clean.shape[1]
    weights = ops.convert_to_tensor(matrix(size, size // scale).astype("float32"))
    small = ops.einsum("ih,nhwc->niwc", weights, ops.einsum("jw,nhwc->nhjc", weights, clean))
    small = ops.round(ops.clip(small, 0.0, 1.0) * 255.0) / 255.0
    edge = EDGE * scale
    return small[:, EDGE:-EDGE, EDGE:-EDGE], clean[:, edge:-edge, edge:-edge]


def _run(network: keras.Model, small: np.ndarray) -> np.ndarray:
    return np.clip(ops.convert_to_numpy(network({"image": small[None]})["image"])[0], 0, 1)
