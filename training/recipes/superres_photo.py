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
SEEN = {2: 128, 3: 104, 4: 80}
"""The sides of the pictures that the detector is solved for, by scale: as large as most training pictures allow."""
DETECTOR_BATCHES = 100
SHARPNESS = 4.0
"""How fast one exit takes over from the other with evidence of aliasing."""
PARTLY_FILTERED: dict[reductions.Reduce, float] = {reductions.area: 0.5, reductions.lanczos: 0.2}
"""How far pictures of half the size count as unfiltered: these let some aliasing through, and a mean of both exits is
better than either."""
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
        "filter, and the detector `aliasing`, which says how much the second exit should count (`share`)."
    )
    starts = (Start("RLFN (Kong et al. 2022)", "Apache-2.0", "rlfn.txt"),)
    # With 44, tiles of a noisy photograph differ by up to 4.6e-4 from the whole, with 48 by 1e-4. The export would
    # measure less, because its photographs have less noise.
    geometry = {"kind": "tiled", "multiple": rlfn.MULTIPLE, "tile_size": 256, "tile_step": 32, "halo": 48}

    def build_parts(self) -> dict[str, Part]:
        return {
            "x4": UpscalePhoto(4, hours=0.4),
            "x2": UpscalePhoto(2, hours=0.4),
            "x3": UpscalePhoto(3, hours=0.4),
            "aliasing": DetectAliasing(),
        }

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the enlargers, each with its two exits mixed as it is told, and the detector."""
        return {
            name: mix_exits(networks[name]) if isinstance(part, UpscalePhoto) else judge(networks[name])
            for name, part in self.parts.items()
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
        """Solve the exit for pictures that were not filtered, for the body as it is, from bicubic enlargement on."""
        exit_ = network.get_layer("exit_unfiltered")
        exit_.set_weights([np.zeros_like(weights) for weights in exit_.get_weights()])
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

    def served_inputs(self, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Mapping[str, Any]:
        """Return the small pictures in [0, 1], and 1 as the share of the exit for those that were not filtered."""
        return {
            "image": ops.cast(batch["small"], "float32") / 255.0,
            "share": ops.cast(batch["unfiltered"], "float32"),
        }

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
    """Tells whether a picture was reduced without a filter. Few weights, which are solved before the first step."""

    batch = 24
    learning_rate = 1e-4
    steps_per_epoch = 5
    hours = 0.02
    eight_bit = False

    def network(self) -> keras.Model:
        """Return a new detector, with an answer for each scale."""
        return aliasing_detector.build(len(photos.SCALES))

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `small`, uint8 (N,h,w,3); `scale`, float32 (1,1,1,3), 1 for that of all; and how far each picture is
        `unfiltered`, float32 (N,1,1,1): each crop is reduced with a filter, and without."""
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = {scale: Crops(training, side * scale, batch // 2, seed) for scale, side in SEEN.items()}

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index, 2])
            scale = photos.SCALES[index % len(photos.SCALES)]
            clean = crops[scale](index)
            pairs = [_reduce_somehow(crop, scale, random, filtered=kind) for kind in (True, False) for crop in clean]
            return {
                "small": np.stack([small for small, _ in pairs]),
                "scale": (np.array(photos.SCALES) == scale).astype(np.float32)[None, None, None],
                "unfiltered": np.array([truth for _, truth in pairs], np.float32)[:, None, None, None],
            }

        return make

    def prepare(self, network: keras.Model, packs: Packs) -> None:
        """Solve the weights."""
        make = self.batches(packs, seed=1, batch=self.batch)
        for answer in range(len(photos.SCALES)):
            batches = [make(index * len(photos.SCALES) + answer) for index in range(DETECTOR_BATCHES)]
            small = np.concatenate([batch["small"] for batch in batches]) / np.float32(255)
            truth = np.concatenate([batch["unfiltered"].reshape(-1) for batch in batches])
            aliasing_detector.solve(network, answer, small, truth)

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the cross entropy of the answer for the scale."""
        evidence = network({"image": ops.cast(batch["small"], "float32") / 255.0})["evidence"]
        found = ops.sigmoid(ops.sum(evidence * batch["scale"], axis=-1, keepdims=True))
        return ops.mean(ops.binary_crossentropy(batch["unfiltered"], found))

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, int, float]]:
        """Return (small, scale, how far it is unfiltered) of the centers of the held-out pictures, by each reduction
        and scale."""
        _, kept = validation_split(packs.pictures("photos/train"))
        return [
            (reduction(crop_center(picture, HELD_OUT_SIZE), scale), scale, _truth(reduction, scale))
            for picture in kept
            for scale in photos.SCALES
            for reduction in reductions.REDUCTIONS.values()
        ]

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the share of wrong pictures among those that were filtered, and that were not; what is between does
        not count."""
        wrong: dict[float, list[bool]] = {0.0: [], 1.0: []}
        for small, scale, truth in self.held_out(packs):
            if truth in wrong:
                wrong[truth].append((_detect(network, small, scale) > 0.5) != (truth > 0.5))
        return {"wrong_filtered": float(np.mean(wrong[0.0])), "wrong_unfiltered": float(np.mean(wrong[1.0]))}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of small pictures, each with what the detector says beside it: white is unfiltered."""
        rows = []
        for start in range(0, 60, 10):
            row: list[np.ndarray] = []
            for small, scale, _ in self.held_out(packs)[start : start + 5]:
                row += [small / np.float32(255), np.full(small.shape, _detect(network, small, scale), np.float32)]
            rows.append(row)
        return previews.grid(rows)


def mix_exits(network: keras.Model) -> keras.Model:
    """Return `network` with one exit: the mean of its two, `share` [N,1,1,1] of that for unfiltered pictures."""
    share = keras.Input((1, 1, 1), name="share")
    plain, other = network.output["image"], network.output["unfiltered"]
    return keras.Model(
        {"image": network.input["image"], "share": share}, {"image": plain + share * (other - plain)}, name=network.name
    )


def judge(detector: keras.Model) -> keras.Model:
    """Return image [N,H,W,3] -> for each scale, named as its enlarger, the logit of the share that its second exit
    should have, [N,1,1,1]."""
    evidence = detector.output["evidence"]
    logits = {f"x{scale}": SHARPNESS * evidence[..., answer : answer + 1] for answer, scale in enumerate(photos.SCALES)}
    return keras.Model(detector.input, logits, name=detector.name)


def _reduce_somehow(
    crop: np.ndarray, scale: int, random: np.random.Generator, *, filtered: bool
) -> tuple[np.ndarray, float]:
    usual = reductions.bicubic if filtered else reductions.unfiltered
    reduction = usual if random.random() < 0.5 else reductions.draw(random, filtered=filtered)
    return reduction(crop, scale), _truth(reduction, scale) if filtered else 1.0


def _truth(reduction: reductions.Reduce, scale: int) -> float:
    if reduction is reductions.unfiltered:
        return 1.0
    return PARTLY_FILTERED.get(reduction, 0.0) if scale == 2 else 0.0


def _detect(network: keras.Model, small: np.ndarray, scale: int) -> float:
    found = network({"image": small[None] / np.float32(255)})["evidence"][..., photos.SCALES.index(scale)]
    return float(ops.convert_to_numpy(ops.sigmoid(found)).item())


def reduce(clean: Any, scale: int) -> tuple[Any, Any]:
    """Return (small, large) from crops [N,size,size,3] in [0, 1]: reduced, rounded to 8 bit, without the edge."""
    size = clean.shape[1]
    weights = ops.convert_to_tensor(matrix(size, size // scale).astype("float32"))
    small = ops.einsum("ih,nhwc->niwc", weights, ops.einsum("jw,nhwc->nhjc", weights, clean))
    small = ops.round(ops.clip(small, 0.0, 1.0) * 255.0) / 255.0
    edge = EDGE * scale
    return small[:, EDGE:-EDGE, EDGE:-EDGE], clean[:, edge:-edge, edge:-edge]


def _run(network: keras.Model, small: np.ndarray, exit_: str = "image") -> np.ndarray:
    """Return what `network` makes of `small` by an exit; a network that mixes its exits is told the share of it."""
    inputs = {"image": photos.pad_to_multiple(small)}
    if "share" in network.input:
        inputs["share"] = np.full((1, 1, 1, 1), exit_ == "unfiltered", np.float32)
    found = network(inputs)
    height, width = small.shape[0], small.shape[1]
    large = ops.convert_to_numpy(found.get(exit_, found["image"]))[0]
    scale = large.shape[0] // (-(-height // photos.MULTIPLE) * photos.MULTIPLE)
    return np.clip(large[: height * scale, : width * scale], 0, 1)
