"""`denoise/photo`: noise, grain and JPEG artifacts out of photographs.

    python -m training train denoise_photo --hours 1.5
    python -m training evaluate denoise_photo

`docs/training/results.md` has its figures and targets. Two networks of the same kind, both given the level, and one
that estimates it and chooses between them. `denoise` is for white noise as the literature has it, neither clipped nor
rounded. `denoise_correlated` is for what files have: noise that was demosaiced, developed, reduced and encoded. One
network for both loses 0.2 dB on the first before it gains 0.2 dB on the second. Both start from FFDNet's weights:
train each by its part, `denoise_photo:denoise --from WEIGHTS` (docs/data.md), and `denoise_photo:estimate` without. At
a higher rate, or without the long warm-up, they lose them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from training.architectures import ffdnet
from training.data import camera
from training.data.crops import Crops, crop_center, validation_split
from training.data.degradations import (
    LEVEL_UNIT,
    correlation_of,
    eight_bit,
    gaussian_noise,
    jpeg,
    level_of,
    sharpen,
    smeared_noise,
)
from training.data.packs import Packs
from training.evaluation import denoising, denoising_previews, previews
from training.evaluation.metrics import psnr
from training.evaluation.tables import ResultTable
from training.recipe import Batch, Part, Recipe, Start

HELD_OUT_SIZE = 192
FFDNET = "denoise/ffdnet_color.npz"
NEAR_ZERO = 4 / 75
"""The level below which the estimator's mistakes count less."""
FAINT = 2 / 75
"""The level below which the estimator's mistakes upwards count more."""
HIGHEST = 75 / 255
"""The largest deviation of white noise: level 1."""


class Mix(NamedTuple):
    """Sixteenths of a batch: JPEG artifacts, pictures of cameras, smeared noise, clean, and white noise in 8 bit.

    The rest is white noise that is neither clipped nor rounded.
    """

    coded: int
    camera: int
    smeared: int
    clean: int
    rounded: int


class DenoisePhoto(Recipe):
    title = "Photographs"
    description = "Removes noise, grain and JPEG artifacts from photographs. Estimates the strength of the noise."
    architecture = "FFDNet given the level, and a level estimator at two scales"
    packs = ("photos", "photos-any")
    weights = (FFDNET,)
    starts = (Start("FFDNet for color (Zhang et al. 2018)", "MIT", "ffdnet.txt"),)
    geometry = {"kind": "tiled", "multiple": 2, "tile_size": 512, "tile_step": 32, "halo": None}
    reach = 8  # of the limit on what is taken away (app/imaging/limiter.py)

    def build_parts(self) -> dict[str, Part]:
        return {"denoise": Denoise(), "denoise_correlated": DenoiseCorrelated(), "estimate": Estimate()}

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> Mapping[str, keras.Model]:
        """Return the networks that are published: the weights of `denoise_correlated` are the mean of both networks'.

        It started where `denoise` did, and forgets less of it that way: WiSE-FT (Wortsman et al. 2022, arXiv
        2109.01903). On PolyU and on simulated cameras it gains about half a dB.
        """
        mixed = ffdnet.build()
        both = (networks[name].get_weights() for name in ("denoise", "denoise_correlated"))
        mixed.set_weights([(plain + correlated) / 2 for plain, correlated in zip(*both, strict=True)])
        return {**networks, "denoise_correlated": mixed}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return the tables of denoising, measured on the test photographs."""
        return denoising.measure(networks, packs)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return the same tables, measured through the service at `url`."""
        return denoising.measure_service(url, packs)

    def preview_grids(self, networks: Mapping[str, Any], packs: Packs) -> Iterator[tuple[str, np.ndarray]]:
        """Yield real and hard pictures beside what the model, and others, make of them."""
        return denoising_previews.preview_grids(networks, packs)


class PhotoPart(Part):
    """Crops of photographs, degraded in the proportions of `mix`."""

    mix: Mix
    crop = 64
    gray = 0.2
    """The share of pictures that are turned to gray."""

    def batches(self, packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        """Return crops `clean`, and `file`: the same, or what a camera or an encoder left of it (uint8, N,H,W,3).

        `gray`, bool (N,1,1,1), says which are gray.
        """
        training, _ = validation_split(packs.pictures("photos/train"))
        crops = Crops(training, self.crop, batch, seed)
        detailed = self.detailed_crops(training, packs, batch, seed)
        coded = batch * self.mix.coded // 16
        taken = coded + batch * self.mix.camera // 16

        def make(index: int) -> Batch:
            clean = crops(index) if detailed is None else self.choose(crops(index), detailed(index))
            random = np.random.default_rng([seed, index, 1])
            gray = random.random(batch) < self.gray
            for place in np.flatnonzero(gray):
                clean[place] = camera.to_gray(clean[place])
            file = clean.copy()
            for i in range(coded):
                file[i] = jpeg(clean[i], random)
            for i in range(coded, taken):
                file[i] = camera.take(clean[i], camera.draw(random)._replace(gray=bool(gray[i])), random)
            return {"clean": clean, "file": file, "gray": gray[:, None, None, None]}

        return make

    def detailed_crops(
        self, training: Sequence[np.ndarray], packs: Packs, batch: int, seed: int
    ) -> Callable[[int], np.ndarray] | None:
        """Return what makes crops with more detail to choose from, or None where those of photographs are enough."""
        return None

    def choose(self, found: np.ndarray, detailed: np.ndarray) -> np.ndarray:
        """Return the crops of a batch, uint8 (N,H,W,3): those `found`, or some of the `detailed` ones."""
        return found

    def degrade(self, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> tuple[Any, Any]:
        """Return (degraded, clean), float32 in about [0, 1].

        The samples have JPEG artifacts, a camera's noise, smeared noise, nothing, and white noise, in this order.
        """
        clean = ops.cast(batch["clean"], "float32") / 255.0
        file = ops.cast(batch["file"], "float32") / 255.0
        count = ops.shape(clean)[0]
        taken = count * self.mix.coded // 16 + count * self.mix.camera // 16
        smeared = taken + count * self.mix.smeared // 16
        untouched = smeared + count * self.mix.clean // 16
        rounded = untouched + count * self.mix.rounded // 16
        white = gaussian_noise(clean[untouched:], seed, HIGHEST)
        kinds = [
            file[:taken],
            smeared_noise(clean[taken:smeared], seed),
            clean[smeared:untouched],
            eight_bit(white[: rounded - untouched]),
            white[rounded - untouched :],
        ]
        degraded = ops.concatenate(kinds, axis=0)
        # A gray file has the same noise three times.
        return ops.where(batch["gray"], ops.repeat(degraded[..., :1], 3, axis=-1), degraded), clean

    def load_held_out(self, packs: Packs) -> np.ndarray:
        """Return the centers of twelve held-out pictures, float32 (12, size, size, 3) in [0, 1]."""
        _, kept = validation_split(packs.pictures("photos/train"))
        return np.stack([crop_center(picture, HELD_OUT_SIZE) for picture in kept[:12]]).astype(np.float32) / 255


class Denoise(PhotoPart):
    """Removes white noise of a given level."""

    mix = Mix(0, 0, 0, 0, 0)
    learning_rate = 1e-6
    warm_up_steps = 500
    hours = 0.1

    def network(self) -> keras.Model:
        """Return a new FFDNet."""
        return ffdnet.build()

    def convert_weights(self, stored: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the weights of a file; the authors' FFDNet has other names and another order of pixels."""
        return ffdnet.convert_weights(stored, LEVEL_UNIT) if "model/0/weight" in stored else stored

    def in_bfloat16(self, network: keras.Model, samples: Callable[[], Mapping[str, np.ndarray]]) -> keras.Model:
        """Return the network with centered channels and weights that bfloat16 holds."""
        return ffdnet.in_bfloat16(network, samples())

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean absolute error, weighted by 0.1 / (level + 0.04); clean samples have level 0.

        Without the weights nearly all of the slope is that of strong noise, and faint noise is left worse than it was.
        """
        degraded, clean = self.degrade(batch, seed)
        level = level_of(degraded, clean)
        restored = network({"image": degraded, "level": level})["image"]
        return ops.mean(ops.abs(restored - clean) * 0.1 / (level + 0.04))

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the mean PSNR (dB) of the held-out pictures at σ 25, 15 and 50, and as cameras take them."""
        clean = self.held_out(packs)
        figures = {}
        for sigma in (25, 15, 50):
            restored = [_run(network, noisy, sigma) for noisy in _add_noise(clean, sigma)]
            pairs = list(zip(restored, clean, strict=True))
            figures[f"psnr{sigma}"] = _mean_psnr(pairs)
        taken = [(camera_picture(picture, index), picture) for index, picture in enumerate(clean)]
        pairs = [(_run(network, noisy, _sigma(noisy, picture)), picture) for noisy, picture in taken]
        figures["psnr_camera"] = _mean_psnr(pairs)
        return figures

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return rows of clean | noisy | restored: σ 15, 25 and 50, then three cameras."""
        clean = self.held_out(packs)[:6]
        rows = []
        for index, picture in enumerate(clean):
            noisy = _add_noise(clean, (15, 25, 50)[index])[index] if index < 3 else camera_picture(picture, index)
            rows.append([picture, noisy, _run(network, noisy, _sigma(noisy, picture))])
        return previews.grid(rows)


class DenoiseCorrelated(Denoise):
    """Removes noise of a given level that cameras, scanners and encoders left."""

    mix = Mix(2, 9, 2, 0, 3)
    learning_rate = 3e-5
    hours = 1.0

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return the same, what cameras left first."""
        figures = super().validate(network, packs)
        return {"psnr_camera": figures.pop("psnr_camera"), **figures}


class Estimate(PhotoPart):
    """Estimates the level, for `strength=auto`, and how alike the noise of neighboring pixels is."""

    crop = 112
    gray = 0.45  # with fewer it goes by the color of noise, and calls gray grain texture
    mix = Mix(2, 5, 3, 4, 1)
    learning_rate = 1e-3
    hours = 1.0
    bfloat16 = True

    def detailed_crops(
        self, training: Sequence[np.ndarray], packs: Packs, batch: int, seed: int
    ) -> Callable[[int], np.ndarray]:
        """Return crops of pictures made small, by up to 1/4, and sharpened half of the time.

        Fine texture is what is taken for noise, and rare in photographs. Those of `photos-any` were compressed, which
        is hardly seen any more at half their size or less.
        """
        sources = (
            Crops(training, self.crop, batch, seed + 1, smallest=0.25),
            Crops(packs.pictures("photos-any"), self.crop, batch, seed + 2, smallest=0.25, smaller_than=0.5),
        )

        def make(index: int) -> np.ndarray:
            random = np.random.default_rng([seed, index, 2])
            found = sources[index % 2](index)
            for place in np.flatnonzero(random.random(batch) < 0.5):
                found[place] = sharpen(found[place], random.uniform(0.3, 2.0))
            return found

        return make

    def choose(self, found: np.ndarray, detailed: np.ndarray) -> np.ndarray:
        """Return the crops `found`, uint8 (N,H,W,3), but of every other pair the one with more detail."""
        for i in range(0, len(found), 2):
            if _detail(detailed[i]) > _detail(found[i]):
                found[i] = detailed[i]
        return found

    def network(self) -> keras.Model:
        """Return image [N,H,W,3] -> level and correlation [N,1,1,1]. Sides are multiples of 4 and at least 32.

        White noise halves in a picture of half the size, and noise that was smeared by demosaicing does not: the
        network sees both sizes. Noise is in all of a picture and texture is not: local answers are corrected by means
        and deviations of features over the whole.
        """
        image = keras.Input((None, None, 3), name="image")
        half = ops.average_pool(image, 2)
        fine, coarse = _without_mean(image), _without_mean(half)
        x = ops.concatenate([ops.space_to_depth(fine, 2)[:, 1:, 1:], coarse, half[:, 1:-1, 1:-1]], axis=-1)
        for depth, (width, stride) in enumerate(((48, 1), (48, 1), (64, 2), (64, 1), (64, 1), (64, 1))):
            padding = "valid" if depth < 3 else "same"  # zeros beside the picture itself would look like an edge
            x = layers.Conv2D(width, 3, stride, padding=padding, activation="relu", name=f"estimate_{depth}")(x)
        wide = x
        for depth, stride in enumerate((2, 1)):
            wide = layers.Conv2D(64, 3, stride, padding="same", activation="relu", name=f"estimate_wide_{depth}")(wide)
        whole = layers.Conv2D(64, 1, name="estimate_whole")(
            ops.concatenate([*_mean_and_spread(x), *_mean_and_spread(wide)], axis=-1)
        )
        doubt = ops.relu(layers.Conv2D(64, 1, use_bias=False, name="estimate_local")(x) + whole)
        # Means of a map of local answers: the level is one for the picture, and a local answer may be sure or not.
        answer = layers.Conv2D(
            3, 1, bias_initializer=keras.initializers.Constant(-2.0), name="estimate_exit", dtype="float32"
        )(x) + layers.Conv2D(3, 1, use_bias=False, kernel_initializer="zeros", name="estimate_doubt", dtype="float32")(
            doubt
        )
        trust = ops.exp(ops.clip(answer[..., 1:2], -6.0, 6.0))
        trust = trust / ops.sum(trust, axis=(1, 2), keepdims=True)
        power = ops.sum(trust * ops.square(ops.softplus(answer[..., :1])), axis=(1, 2), keepdims=True)
        correlation = ops.sum(trust * ops.sigmoid(answer[..., 2:]), axis=(1, 2), keepdims=True)
        # The root's slope is infinite at zero: a first large step that lands there would be the last.
        return keras.Model(
            {"image": image}, {"level": ops.sqrt(power + 1e-8), "correlation": correlation}, name="estimator"
        )

    def loss(self, network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
        """Return the mean squared error of the logarithm of level + 4/75, and of the correlation where there is noise.

        The constant decides which mistakes near zero matter: with much less, the estimator calls all JPEG files clean
        rather than take one clean picture for a JPEG file; with much more it does the reverse.
        """
        degraded, clean = self.degrade(batch, seed)
        level = level_of(degraded, clean)
        found = network({"image": degraded})
        error = ops.square(ops.log((found["level"] + NEAR_ZERO) / (level + NEAR_ZERO)))
        # Texture that is lost is worse than faint noise that stays.
        error = ops.where((level < FAINT) & (found["level"] > level), 4.0 * error, error)
        apart = ops.square(found["correlation"] - correlation_of(degraded, clean))
        return ops.mean(error) + 0.2 * ops.mean(apart * level / (level + NEAR_ZERO))

    def validate(self, network: keras.Model, packs: Packs) -> dict[str, float]:
        """Return mean errors of the estimated σ on the 8-bit scale: σ 0 to 50 clipped and rounded, cameras, clean."""
        clean = self.held_out(packs)
        errors = []
        for sigma in (0, 5, 15, 25, 50):
            noisy = np.rint(np.clip(_add_noise(clean, sigma), 0, 1) * 255) / 255
            errors.append([_estimate(network, n) - _sigma(n, c) for n, c in zip(noisy, clean, strict=True)])
        taken = [(camera_picture(picture, index), picture) for index, picture in enumerate(clean)]
        cameras = [_estimate(network, noisy) - _sigma(noisy, picture) for noisy, picture in taken]
        kinds = [(0, noisy) for noisy in _add_noise(clean, 15)] + [(1, noisy) for noisy, _ in taken]
        return {
            "error255": float(np.mean(np.abs(errors))),
            "camera255": float(np.mean(np.abs(cameras))),
            "clean255": float(np.max(errors[0])),
            "wrong": float(np.mean([_looks_correlated(network, noisy) != (kind == 1) for kind, noisy in kinds])),
        }

    def preview_grid(self, network: keras.Model, packs: Packs) -> np.ndarray:
        """Return a plot of true against estimated σ: a dot for each picture, the diagonal is the truth."""
        clean = self.held_out(packs)
        noisy = [
            (picture, noise)
            for sigma in range(0, 60, 4)
            for picture, noise in zip(clean, _add_noise(clean, sigma), strict=True)
        ]
        noisy += [(picture, camera_picture(picture, seed)) for seed in range(15) for picture in clean]
        truth = [_sigma(np.clip(one, 0, 1), picture) for picture, one in noisy]
        found = [_estimate(network, np.clip(one, 0, 1)) for _, one in noisy]
        return previews.scatter(truth, found, highest=60)


def camera_picture(clean: np.ndarray, seed: int) -> np.ndarray:
    """Return float32 `clean` (H,W,3) in [0, 1] as a camera takes it that `seed` draws; in color."""
    random = np.random.default_rng([seed, 7])
    drawn = camera.draw(random)._replace(gray=False)
    return camera.take(np.rint(clean * 255).astype(np.uint8), drawn, random).astype(np.float32) / 255


def _without_mean(picture: Any) -> Any:
    """Return a picture minus its local mean, one pixel less at each side, twice: for faint and strong noise.

    That is mostly noise, but for edges, which softsign keeps small. On the picture itself the faint traces of a JPEG
    encoder would take hours to be learned.
    """
    detail = picture[:, 1:-1, 1:-1] - ops.average_pool(picture, 3, strides=1, padding="valid")
    return ops.concatenate([ops.softsign(32.0 * detail), ops.softsign(4.0 * detail)], axis=-1)


def _mean_and_spread(features: Any) -> list[Any]:
    """Return the means of features [N,H,W,C] over the picture, and their standard deviations, each [N,1,1,C]."""
    mean = ops.mean(features, axis=(1, 2), keepdims=True)
    # The root's slope is infinite at zero.
    return [mean, ops.sqrt(ops.mean(ops.square(features - mean), axis=(1, 2), keepdims=True) + 1e-6)]


def _detail(picture: np.ndarray) -> float:
    return float(np.abs(np.diff(picture[..., 1].astype(np.int16), axis=0)).mean())


def _add_noise(clean: np.ndarray, sigma: float) -> np.ndarray:
    return clean + np.random.default_rng(7).normal(0, sigma / 255, clean.shape).astype(np.float32)


def _sigma(noisy: np.ndarray, clean: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(noisy - clean)))) * 255


def _mean_psnr(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([psnr(np.clip(restored, 0, 1) * 255, clean * 255) for restored, clean in pairs]))


def _estimate(network: keras.Model, picture: np.ndarray) -> float:
    level = ops.convert_to_numpy(network({"image": picture[None]})["level"])
    return float(level.reshape(())) * LEVEL_UNIT * 255


def _looks_correlated(network: keras.Model, picture: np.ndarray) -> bool:
    return denoising.estimate_noise({"estimate": network}, picture).correlated


def _run(network: keras.Model, picture: np.ndarray, sigma: float) -> np.ndarray:
    level = np.full((1, 1, 1, 1), sigma / 255 / LEVEL_UNIT, np.float32)
    return ops.convert_to_numpy(network({"image": picture[None], "level": level})["image"])[0]
