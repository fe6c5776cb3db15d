"""`superres/photo`: photographs two, three and four times as large, one network for each scale.

    python -m training train superres_photo
    python -m training evaluate superres_photo

`docs/training/results.md` has its figures and targets. Train each scale by its part, `superres_photo:x4 --from
WEIGHTS`, and `superres_photo:aliasing` without. x2 starts from the authors' RLFN of that scale, x4 and x3 from that for
x4, the exit of x3 resampled: each keeps what it has at a low rate only. From nothing, use `--rate 5e-4`.

The small picture is MATLAB's bicubic reduction rounded to 8 bit, as in the literature, and for some crops what other
programs make of it. One that was reduced without a filter has jagged edges that were not there, and a network for the
others sharpens them. So there are two exits, and a small network that tells which kind a picture is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.architectures import aliasing_detector, rlfn
from training.data import reductions
from training.data.crops import Crops, crop_center, validation_split
from training.data.imresize import imresize, matrix
from training.data.packs import Packs
from training.enlarge import bicubic_kernel
from training.evaluation import photos, previews
from training.evaluation.metrics import psnr
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe, Start

# Low-resolution pixels of a crop, and how many of them at each side are left out of it after the reduction: the
# mirrored edge that imresize makes there is no part of the picture. Crops are large and few: in one of 36 pixels two
# thirds lie within 8 of a border, where the network sees zeros that pictures hardly have.
PATCH, EDGE = 64, 4
SOLVED_BATCHES = 16
LEAST, SHARPNESS = {2: 0.0, 3: -0.5, 4: 0.0}, 3.0
"""The evidence of aliasing, by scale, where both exits count the same, and how fast one takes over. For x2 it is weak:
with -1.5, pictures without a filter gain 1 dB on Set5, and filtered ones with fine texture lose 0.4 dB on Set14."""
UNFILTERED_SHARE = 0.5
"""How far the exit for pictures that were not filtered goes from bicubic enlargement to the least error. Programs take
pixels from other places, up to half a pixel apart: at 1 they are right on average, and some worse than bicubic."""
HELD_OUT_SIZE = 240


class SuperresPhoto(Recipe):
    title = "Photographs"
    description = "Enlarges clean photographs two, three or four times."
    architecture = "RLFN with gates on a fixed grid and two exits, one network per scale, and a detector of aliasing"
    packs = ("photos",)
    weights = ("superres/rlfn_x2.npz", "superres/rlfn_x4.npz")
    card = (
        "The bodies of the networks have RLFN's weights as their authors published them; ×3 is the exit of ×4, "
        "resampled. Made here are the gates on a fixed grid, the second exit for pictures that were reduced without a "
        "filter, and the detector that chooses between the exits."
    )
    starts = (Start("RLFN (Kong et al. 2022)", "Apache-2.0", "rlfn.txt"),)
    geometry = {"kind": "tiled", "multiple": rlfn.MULTIPLE, "tile_size": 256, "tile_step": 32, "halo": 56}

    def build_parts(self) -> dict[str, Part]:
        return {
            "x4": UpscalePhoto(4, hours=0.4),
            "x2": UpscalePhoto(2, hours=0.4),
            "x3": UpscalePhoto(3, hours=0.4),
            "aliasing": DetectAliasing(),
        }

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the enlargers, each with its two exits mixed as the detector says."""
        return {
            name: mix_exits(networks[name], networks["aliasing"], part.scale)
            for name, part in self.parts.items()
            if isinstance(part, UpscalePhoto)
        }

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of enlargement, measured on the test photographs."""
        return [*photos.measure_superresolution(networks, packs), photos.measure_reductions(networks, packs)]

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables, measured through the service at `url`."""
        return photos.measure_superresolution_service(url, packs)


class Upscale(Part):
    """A network that enlarges photographs `scale` times; `patch` is the size of its crops in small pixels."""

    steps_per_epoch = 25
    patch = PATCH

    def __init__(self, scale: int, hours: float) -> None:
        super().__init__()
        self.scale, self.hours = scale, hours

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


class UpscalePhoto(Upscale):
    """Enlarges pictures however they were reduced: by one exit those that were filtered, by another the others."""

    batch = 12
    learning_rate = 5e-5
    warm_up_steps = 50
    steps_per_epoch = 10
    bfloat16 = True
    patch = 48
    other, unfiltered = 3, 2
    """How many of twelve crops are reduced with another filter than bicubic, and without any."""

    def network(self) -> keras.Model:
        """Return a new RLFN for the scale of this part."""
        return rlfn.build(self.scale, bicubic_kernel(3, self.scale))

    def convert_weights(self, stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the weights of a file; the authors' RLFN has other names and another order of pixels."""
        return rlfn.convert_weights(stored, self.scale) if "conv_1/weight" in stored else stored

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `small` and `clean`, uint8 (N,h,w,3) and (N,H,W,3), and `unfiltered`, bool (N,1,1,1)."""
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = Crops(training, (self.patch + 2 * EDGE) * self.scale, batch, seed)
        return lambda index: self.reduce_crops(crops(index), np.random.default_rng([seed, index, 1]))

    def prepare(self, network: keras.Model, packs: Packs) -> None:
        """Solve the exit for pictures that were not filtered, for the body as it is."""
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = Crops(training, self.patch * self.scale, self.batch, seed=1)
        rlfn.solve_exit(network, "unfiltered", self._pairs(crops), share=UNFILTERED_SHARE)

    def _pairs(self, crops: Crops) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches of (small, large), float32, reduced without a filter."""
        random = np.random.default_rng(1)
        for index in range(SOLVED_BATCHES):
            large = crops(index)
            small = np.stack([reductions.draw(random, filtered=False)(crop, self.scale) for crop in large])
            yield (small / 255).astype(np.float32), (large / 255).astype(np.float32)

    def reduce_crops(self, clean: np.ndarray, random: np.random.Generator) -> Batch:
        """Return the arrays of a batch: the last crops reduced without a filter, those before them by another."""
        count = len(clean)
        filtered = count - count * self.unfiltered // 12
        usual = filtered - count * self.other // 12
        kinds = [reductions.bicubic] * usual + [
            reductions.draw(random, filtered=place < filtered) for place in range(usual, count)
        ]
        small = np.stack([reduction(crop, self.scale) for reduction, crop in zip(kinds, clean, strict=True)])
        edge = EDGE * self.scale
        return {
            "small": np.ascontiguousarray(small[:, EDGE:-EDGE, EDGE:-EDGE]),
            "clean": np.ascontiguousarray(clean[:, edge:-edge, edge:-edge]),
            "unfiltered": (np.arange(count) >= filtered)[:, None, None, None],
        }

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean absolute error, each crop by its exit."""
        found = network({"image": ops.cast(batch["small"], "float32") / 255.0})
        large = ops.where(batch["unfiltered"], found.get("unfiltered", found["image"]), found["image"])
        return ops.mean(ops.abs(large - ops.cast(batch["clean"], "float32") / 255.0))

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean RGB PSNR (dB) of the held-out pictures, reduced bicubically, by area and without a filter;
        and that of bicubic enlargement beside the first and the last."""
        figures = super().validate(network, packs)
        for name, exit_ in (("area", "image"), ("none", "unfiltered")):
            reduced = [(reductions.REDUCTIONS[name](large, self.scale), large) for large in self.large(packs)]
            ours = [psnr(_run(network, small / np.float32(255), exit_) * 255, large) for small, large in reduced]
            figures[f"psnr_{name}"] = float(np.mean(ours))
        plain = [psnr(np.clip(imresize(small, *large.shape[:2]), 0, 255), large) for small, large in reduced]
        return {**figures, "bicubic_none": float(np.mean(plain))}

    def large(self, packs: Packs) -> list[np.ndarray]:
        """Return the large held-out pictures, uint8."""
        return [np.rint(large * 255).astype(np.uint8) for _, large in self.held_out(packs)]


class DetectAliasing(Part):
    """Tells whether a picture was reduced without a filter. Ten weights, which are solved before the first step."""

    batch = 24
    learning_rate = 1e-4
    steps_per_epoch = 5
    hours = 0.02
    patch = 64

    def network(self) -> keras.Model:
        """Return a new detector."""
        return aliasing_detector.build()

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `small`, uint8 (N,h,w,3), of all scales, and `unfiltered`, bool (N,1,1,1): one in two."""
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = {scale: Crops(training, self.patch * scale, batch, seed) for scale in (2, 3, 4)}

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index, 2])
            scale = 2 + index % 3
            truth = np.arange(batch) % 2 > 0
            small = [
                _reduce_somehow(crop, scale, random, filtered=not jagged)
                for crop, jagged in zip(crops[scale](index), truth, strict=True)
            ]
            return {"small": np.stack(small), "unfiltered": truth[:, None, None, None]}

        return make

    def prepare(self, network: keras.Model, packs: Packs) -> None:
        """Solve the weights."""
        make = self.batches(packs, seed=1, batch=self.batch)
        batches = [make(index) for index in range(SOLVED_BATCHES)]
        small = np.concatenate([batch["small"] for batch in batches]) / np.float32(255)
        truth = np.concatenate([batch["unfiltered"].reshape(-1) for batch in batches])
        aliasing_detector.solve(network, small, truth)

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the cross entropy, at every place."""
        found = ops.sigmoid(network({"image": ops.cast(batch["small"], "float32") / 255.0})["evidence"])
        truth = ops.broadcast_to(ops.cast(batch["unfiltered"], "float32"), ops.shape(found))
        return ops.mean(ops.binary_crossentropy(truth, found))

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, bool]]:
        """Return (small, unfiltered) of the centers of the held-out pictures, by each reduction and scale."""
        _, kept = validation_split(packs.pictures("photos/train"))
        return [
            (reduction(crop_center(picture, HELD_OUT_SIZE), scale)[:52, :52], name == "none")
            for picture in kept[:10]
            for scale in (2, 3, 4)
            for name, reduction in reductions.REDUCTIONS.items()
        ]

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the share of wrong places in pictures that were filtered, and that were not."""
        wrong: dict[bool, list[float]] = {True: [], False: []}
        for small, jagged in self.held_out(packs):
            wrong[jagged].append(float(np.mean((_detect(network, small) > 0.5) != jagged)))
        return {"wrong_filtered": float(np.mean(wrong[False])), "wrong_unfiltered": float(np.mean(wrong[True]))}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of small pictures, each with what the detector says beside it: white is unfiltered."""
        rows = []
        for start in range(0, 60, 10):
            row: list[np.ndarray] = []
            for small, _ in self.held_out(packs)[start : start + 5]:
                row += [small / np.float32(255), np.repeat(_detect(network, small), 3, axis=-1)]
            rows.append(row)
        return previews.grid(rows)


def mix_exits(network: keras.Model, detector: keras.Model, scale: int) -> keras.Model:
    """Return `network` with one exit: the mean of its two, weighted by what `detector` says."""
    image = network.input["image"]
    jagged = ops.sigmoid(SHARPNESS * (detector({"image": image})["evidence"] - LEAST[scale]))
    for axis in (1, 2):
        jagged = ops.repeat(jagged, scale, axis=axis)
    plain, other = network.output["image"], network.output["unfiltered"]
    return keras.Model({"image": image}, {"image": plain + jagged * (other - plain)}, name=network.name)


def _reduce_somehow(crop: np.ndarray, scale: int, random: np.random.Generator, *, filtered: bool) -> np.ndarray:
    usual = filtered and random.random() < 0.4
    return (reductions.bicubic if usual else reductions.draw(random, filtered=filtered))(crop, scale)


def _detect(network: keras.Model, small: np.ndarray) -> np.ndarray:
    found = network({"image": small[None] / np.float32(255)})["evidence"]
    return ops.convert_to_numpy(ops.sigmoid(found))[0]


def reduce(clean: Any, scale: int) -> tuple[Any, Any]:
    """Return (small, large) from crops [N,size,size,3] in [0, 1]: reduced, rounded to 8 bit, without the edge."""
    size = clean.shape[1]
    weights = ops.convert_to_tensor(matrix(size, size // scale).astype("float32"))
    small = ops.einsum("ih,nhwc->niwc", weights, ops.einsum("jw,nhwc->nhjc", weights, clean))
    small = ops.round(ops.clip(small, 0.0, 1.0) * 255.0) / 255.0
    edge = EDGE * scale
    return small[:, EDGE:-EDGE, EDGE:-EDGE], clean[:, edge:-edge, edge:-edge]


def _run(network: keras.Model, small: np.ndarray, exit_: str = "image") -> np.ndarray:
    """Return what `network` makes of `small` by an exit; a network that mixes its exits has one."""
    found = network({"image": photos.pad_to_multiple(small)})
    height, width = small.shape[0], small.shape[1]
    large = ops.convert_to_numpy(found.get(exit_, found["image"]))[0]
    scale = large.shape[0] // (-(-height // photos.MULTIPLE) * photos.MULTIPLE)
    return np.clip(large[: height * scale, : width * scale], 0, 1)
