"""`denoise/photo`: noise, grain and JPEG artifacts out of photographs; one network that is given the level.

    python -m training train denoise_photo --hours 1.5      # two cores; 0.2 on an accelerator
    python -m training evaluate denoise_photo

`docs/training/results.md` has its figures and targets. Half of the batches' Gaussian noise is clipped and
rounded, half is not: the literature measures one, real files have the other, and a network that saw one kind only
loses 0.1 to 0.3 dB on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from training.architectures import residual_unet
from training.data.crops import Crops, crop_center, validation_split
from training.data.degradations import LEVEL_UNIT, camera_noise, eight_bit, gaussian_noise, jpeg, level_of
from training.data.packs import Packs
from training.evaluation import photos, previews
from training.evaluation.metrics import psnr
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe

CROP = 64
HELD_OUT_SIZE = 192


class Mix(NamedTuple):
    """Sixteenths of a batch with JPEG artifacts, with camera noise, and clean; the rest gets white noise."""

    coded: int
    camera: int
    clean: int


class DenoisePhoto(Recipe):
    title = "Photographs"
    description = "Removes noise, grain and JPEG artifacts from photographs. Estimates the strength of the noise."
    architecture = "U-Net of plain residual blocks given the level (after DRUNet and FFDNet), and a level estimator"
    packs = ("photos",)
    geometry = {"kind": "tiled", "multiple": 8, "tile_size": 512, "tile_step": 64, "halo": None}

    def build_parts(self) -> dict[str, Part]:
        return {"denoise": Denoise(), "estimate": Estimate()}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of denoising, measured on the test photographs."""
        return photos.measure_denoising(networks, packs)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables, measured through the service at `url`."""
        return photos.measure_denoising_service(url, packs)


class PhotoPart(Part):
    """Crops of photographs, degraded in the proportions of `mix`."""

    # The denoiser learns most from white noise; the estimator learns that soon and needs what resembles texture.
    mix = Mix(2, 2, 1)

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return crops `clean`, and `file`: the same, or what a JPEG encoder left of it (uint8, N,H,W,3)."""
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = Crops(training, CROP, batch, seed)
        coded = batch * self.mix.coded // 16

        def make(index: int) -> Batch:
            clean = crops(index)
            random = np.random.default_rng([seed, index, 1])
            file = clean.copy()
            for i in range(coded):
                file[i] = jpeg(clean[i], random)
            return {"clean": clean, "file": file}

        return make

    def degrade(self, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return (degraded, clean), float32 in about [0, 1].

        The samples have JPEG artifacts, camera noise, nothing, and Gaussian noise, in this order.
        """
        clean = ops.cast(batch["clean"], "float32") / 255.0
        file = ops.cast(batch["file"], "float32") / 255.0
        count = ops.shape(clean)[0]
        coded = count * self.mix.coded // 16
        camera = coded + count * self.mix.camera // 16
        untouched = camera + count * self.mix.clean // 16
        rounded = untouched + (count - untouched) // 2
        white = gaussian_noise(clean[untouched:], seed)
        kinds = [
            file[:coded],
            camera_noise(clean[coded:camera], seed),
            clean[camera:untouched],
            eight_bit(white[: rounded - untouched]),
            white[rounded - untouched :],
        ]
        return ops.concatenate(kinds, axis=0), clean

    def load_held_out(self, packs: Packs) -> np.ndarray:
        """Return the centers of twelve held-out pictures, float32 (12, size, size, 3) in [0, 1]."""
        _, kept = validation_split(packs.pictures("photos/train"))
        return np.stack([crop_center(picture, HELD_OUT_SIZE) for picture in kept[:12]]).astype(np.float32) / 255


class Denoise(PhotoPart):
    """Removes noise of a given level."""

    learning_rate = 8e-4
    hours = 1.5

    def network(self) -> keras.Model:
        """Return a new residual U-Net."""
        return residual_unet.build()

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean absolute error; clean samples have level 0, so that a clean picture comes back clean."""
        degraded, clean = self.degrade(batch, seed)
        restored = network({"image": degraded, "level": level_of(degraded, clean)})["image"]
        return ops.mean(ops.abs(restored - clean))

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean PSNR (dB) of the held-out pictures at σ 15, 25 and 50, the first being 25."""
        clean = self.held_out(packs)
        figures = {}
        for sigma in (25, 15, 50):
            restored = [_run(network, noisy, sigma) for noisy in _add_noise(clean, sigma)]
            pairs = zip(restored, clean, strict=True)
            figures[f"psnr{sigma}"] = float(np.mean([psnr(np.clip(r, 0, 1) * 255, c * 255) for r, c in pairs]))
        return figures

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of clean | noisy | restored at σ 15, 25 and 50."""
        clean = self.held_out(packs)[:6]
        rows = []
        for index, (picture, sigma) in enumerate(zip(clean, (15, 25, 50, 15, 25, 50), strict=True)):
            noisy = _add_noise(clean, sigma)[index]
            rows.append([picture, noisy, _run(network, noisy, sigma)])
        return previews.grid(rows)


class Estimate(PhotoPart):
    """Estimates the level, for `strength=auto`."""

    mix = Mix(5, 4, 2)
    learning_rate = 1e-3
    hours = 0.2

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> level [N,1,1,1], estimated at half resolution."""
        image = keras.Input((None, None, 3), name="image")
        # A picture minus its local mean is mostly noise, but for edges, which softsign keeps small. Twice, for faint
        # and strong noise. On the picture itself the faint traces of a JPEG encoder would take hours to be learned.
        detail = image[:, 1:-1, 1:-1] - ops.average_pool(image, 3, strides=1, padding="valid")
        x = ops.space_to_depth(ops.concatenate([ops.softsign(32.0 * detail), ops.softsign(4.0 * detail)], axis=-1), 2)
        for depth, width in enumerate((48, 48, 48, 64, 64)):
            x = layers.Conv2D(width, 3, padding="valid", activation="relu", name=f"estimate_{depth}")(x)
        # Means of a map of local answers: the level is one for the picture, and a local answer may be sure or not.
        answer = layers.Conv2D(
            2, 1, bias_initializer=keras.initializers.Constant(-2.0), name="estimate_exit", dtype="float32"
        )(x)
        trust = ops.exp(ops.clip(answer[..., 1:], -6.0, 6.0))
        value = ops.softplus(answer[..., :1])
        power = ops.sum(trust * ops.square(value), axis=(1, 2), keepdims=True) / ops.sum(
            trust, axis=(1, 2), keepdims=True
        )
        # The root's slope is infinite at zero: a first large step that lands there would be the last.
        return keras.Model({"image": image}, {"level": ops.sqrt(power + 1e-8)}, name="level_estimator")

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean squared error of the logarithm of level + 7.5/75.

        The constant decides which mistakes near zero matter: with much less, the estimator calls all JPEG files clean
        rather than take one clean picture for a JPEG file; with much more it does the reverse.
        """
        degraded, clean = self.degrade(batch, seed)
        level = level_of(degraded, clean)
        found = network({"image": degraded})["level"]
        return ops.mean(ops.square(ops.log((found + 0.1) / (level + 0.1))))

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean error of the estimated σ on the 8-bit scale over σ 0 to 50, clipped and rounded."""
        clean = self.held_out(packs)
        errors = []
        for sigma in (0, 5, 15, 25, 50):
            noisy = np.rint(np.clip(_add_noise(clean, sigma), 0, 1) * 255) / 255
            truth = np.sqrt(np.mean(np.square(noisy - clean), axis=(1, 2, 3))) * 255
            level = ops.convert_to_numpy(network({"image": noisy})["level"]).reshape(-1)
            errors.append(np.abs(level * LEVEL_UNIT * 255 - truth))
        return {"error255": float(np.mean(errors))}

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return a plot of true against estimated σ: a dot for each picture, the diagonal is the truth."""
        clean = self.held_out(packs)
        truth, found = [], []
        for sigma in range(0, 60, 4):
            noisy = np.clip(_add_noise(clean, sigma), 0, 1)
            truth += list(np.sqrt(np.mean(np.square(noisy - clean), axis=(1, 2, 3))) * 255)
            found += list(ops.convert_to_numpy(network({"image": noisy})["level"]).reshape(-1) * LEVEL_UNIT * 255)
        return previews.scatter(truth, found, highest=60)


def _add_noise(clean: np.ndarray, sigma: float) -> np.ndarray:
    return clean + np.random.default_rng(7).normal(0, sigma / 255, clean.shape).astype(np.float32)


def _run(network: keras.Model, picture: np.ndarray, sigma: float) -> np.ndarray:
    level = np.full((1, 1, 1, 1), sigma / 255 / LEVEL_UNIT, np.float32)
    return ops.convert_to_numpy(network({"image": picture[None], "level": level})["image"])[0]
