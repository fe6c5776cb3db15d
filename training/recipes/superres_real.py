"""`superres/real`: pictures as people have them, four times as large, cleaned while they are enlarged.

    python -m training train superres_real --from weights/superres/realesr_general_x4v3.npz
    python -m training evaluate superres_real

`docs/training/results.md` has its figures. It starts from the small general Real-ESRGAN, which takes skin and leaves
for noise. Trained on photographs that were worn in many ways (`training/data/worn.py`), with losses that a smooth
result does not please: the distance of features, and of how much fine detail there is around each place. Two and three
times are its result, reduced by means of areas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from training.architectures import srvgg, vgg19
from training.data import camera
from training.data.crops import Crops, crop_center, validation_split
from training.data.imresize import imresize
from training.data.packs import Packs
from training.data.worn import wear
from training.evaluation import photos, previews, real_enlarging
from training.evaluation.metrics import psnr
from training.evaluation.perception import WEIGHTS
from training.evaluation.tables import ResultTable
from training.precision import dtype_policy, has_fast_bfloat16
from training.recipe import Batch, Part, Recipe, Start

EDGE = 4
"""Small pixels at each side of a crop that do not count: there the network sees zeros, which pictures hardly have."""
HELD_OUT_SIZE = 160
LAYERS = {"block1_conv2": 0.1, "block2_conv2": 0.4, "block3_conv1": 1.0}
"""The layers of VGG19 that are compared, and how much each counts."""
SCALES = (2, 3, 4)


class SuperresReal(Recipe):
    title = "Real pictures"
    description = "Enlarges and cleans pictures with noise, grain, JPEG artifacts or blur."
    architecture = "SRVGG (the small general Real-ESRGAN): 34 plain convolutions of 64 channels"
    packs = ("photos",)
    weights = ("superres/realesr_general_x4v3.npz", WEIGHTS)
    starts = (Start("Real-ESRGAN, realesr-general-x4v3 (Wang et al. 2021)", "BSD-3-Clause", "real-esrgan.txt"),)
    defaults = {"denoise": 1}
    geometry = {"kind": "tiled", "multiple": 1, "tile_size": 256, "tile_step": 32, "halo": srvgg.REACH}

    def build_parts(self) -> dict[str, Part]:
        return {"x4": EnlargeReal()}

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the network for each scale, `x2` and `x3` reduced."""
        network = networks["x4"]
        reduced = {f"x{scale}": srvgg.reduce_result(network, scale) for scale in SCALES if scale != srvgg.SCALE}
        return {**reduced, "x4": network}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of real enlarging, measured on worn photographs and on real pictures."""
        return real_enlarging.measure(networks, packs)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables of `photo` and `real`, through the service at `url`. Raises ServiceProblem."""
        return real_enlarging.measure_service(url, packs)

    def preview_grids(self, networks: Mapping[str, Any], packs: Packs) -> Iterator[tuple[str, np.ndarray]]:
        """Yield real and worn pictures, enlarged in several ways."""
        return real_enlarging.preview_grids(networks, packs)


class EnlargeReal(Part):
    """Enlarges worn photographs four times."""

    batch = 4
    learning_rate = 1e-4
    warm_up_steps = 50
    steps_per_epoch = 10
    hours = 1.0
    bfloat16 = True
    patch = 32
    gray = 0.1

    def __init__(self) -> None:
        super().__init__()
        self._features: keras.Model | None = None

    def network(self) -> keras.Model:
        """Return a new network."""
        return srvgg.build()

    def convert_weights(self, stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the weights of a file; the authors' have other names and another order of pixels."""
        return srvgg.convert_weights(stored) if "conv_0/kernel" in stored else stored

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return `small`, worn, and `clean`, uint8 (N,h,w,3) and (N,4*h,4*w,3)."""
        with dtype_policy("bfloat16" if has_fast_bfloat16() else "float32"):
            self._features = vgg19.build(list(LAYERS), packs.weights(WEIGHTS))
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = Crops(training, (self.patch + 2 * EDGE) * srvgg.SCALE, batch, seed)

        def make(index: int) -> Batch:
            random = np.random.default_rng([seed, index, 3])
            clean = [camera.to_gray(crop) if random.random() < self.gray else crop for crop in crops(index)]
            return {
                "small": np.stack([wear(crop, srvgg.SCALE, random) for crop in clean]),
                "clean": np.stack(clean),
            }

        return make

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean absolute error, the distance of features, that of the energy of detail, and what repeats."""
        assert self._features is not None, "batches loads it"
        edge = EDGE * srvgg.SCALE
        large = network({"image": ops.cast(batch["small"], "float32") / 255.0})["image"][:, edge:-edge, edge:-edge]
        clean = ops.cast(batch["clean"], "float32")[:, edge:-edge, edge:-edge] / 255.0
        features = self._features(ops.concatenate([large, clean], axis=0))
        apart = sum(weight * _relative_distance(features[name]) for name, weight in LAYERS.items())
        detail = 0.005 * detail_distance(large, clean) + 3.0 * repetition(large - clean)
        return ops.mean(ops.abs(large - clean)) + 0.1 * apart + detail

    def load_held_out(self, packs: Packs) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (small, worn; large) of the centers of six held-out pictures, uint8."""
        _, kept = validation_split(packs.pictures("photos/train"))
        larges = [crop_center(picture, HELD_OUT_SIZE) for picture in kept[:6]]
        return [(wear(large, srvgg.SCALE, np.random.default_rng(n)), large) for n, large in enumerate(larges)]

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean RGB PSNR (dB) of the held-out pictures, their distance of features to the clean ones, and the
        energy of their detail over that of the clean ones."""
        measure = real_enlarging.distance_to(packs)
        pairs = [(real_enlarging.run(network, small), large) for small, large in self.held_out(packs)]
        return {
            "psnr": float(np.mean([psnr(found, large) for found, large in pairs])),
            "distance": float(np.mean([measure(found, large) for found, large in pairs])),
            "detail": float(np.mean([real_enlarging.detail_energy(found, large) for found, large in pairs])),
        }

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of bicubic | ours | the clean picture."""
        rows = []
        for small, large in self.held_out(packs):
            plain = photos.eight_bit(imresize(small, *large.shape[:2]))
            rows.append([one / np.float32(255) for one in (plain, real_enlarging.run(network, small), large)])
        return previews.grid(rows)


def detail_distance(found: Any, clean: Any) -> Any:
    """Return how far apart the energies of fine detail are, in logarithms: of two bands, around each place.

    Where the detail is need not be known for that: grass that is drawn elsewhere is better than none.
    """
    total = 0.0
    for fine, coarse in ((1, 3), (3, 7)):
        one, other = (_band_energy(picture, fine, coarse) for picture in (found, clean))
        total = total + ops.mean(ops.abs(ops.log(one / other)))
    return total


def repetition(error: Any, window: int = 6) -> Any:
    """Return how much of an error [N,H,W,3] repeats with every small pixel, in windows of so many small pixels.

    A grid is the cheapest detail there is: without this, the network draws one into flat places.
    """
    luma = ops.mean(error, axis=-1, keepdims=True)
    fine = luma - ops.average_pool(luma, 5, strides=1, padding="same")
    places = ops.space_to_depth(fine, srvgg.SCALE)
    return ops.mean(ops.abs(ops.average_pool(places, window, strides=window // 2)))


def _band_energy(picture: Any, fine: int, coarse: int, window: int = 16) -> Any:
    luma = ops.mean(picture, axis=-1, keepdims=True)
    band = ops.average_pool(luma, fine, strides=1) if fine > 1 else luma
    wide = ops.average_pool(luma, coarse, strides=1)
    rest = (coarse - fine) // 2
    band = band[:, rest:-rest, rest:-rest] - wide
    return ops.average_pool(ops.square(band), window, strides=window // 2) + 1e-5


def _relative_distance(pair: Any) -> Any:
    """Return the mean absolute difference of found and clean activations, over the mean of the clean ones."""
    found, clean = ops.split(ops.cast(pair, "float32"), 2, axis=0)
    clean = ops.stop_gradient(clean)
    return ops.mean(ops.abs(found - clean)) / ops.mean(ops.abs(clean))
