"""`denoise/photo`: noise, grain and JPEG artefacts out of photographs; one network for all levels, told the level.

    python -m training train denoise_photo --hours 1.5      # two cores; 0.2 on an accelerator
    python -m training evaluate denoise_photo

`docs/rows.md` says what it reached and what it should. Half of the batches' Gaussian noise is clipped and rounded,
half is not: the literature measures one, real files have the other, and a network that saw one kind only loses 0.1 to
0.3 dB on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from training import sheets
from training.architectures import residual_unet
from training.data.crops import Crops, validation_split
from training.data.packs import Packs
from training.degradations import LEVEL_UNIT, camera_noise, eight_bit, gaussian_noise, jpeg, level_of
from training.metrics import psnr
from training.recipe import Batch, Part, Recipe

CROP = 64


class Mix(NamedTuple):
    """Sixteenths of a batch that a JPEG encoder and a camera spoil and that stay clean; white noise spoils the rest."""

    coded: int
    camera: int
    clean: int


# White noise is the network's school; the estimator learns it soon and needs to see what is hard to tell from texture.
DENOISE, ESTIMATE = Mix(2, 2, 1), Mix(5, 4, 2)


def batches(packs: Packs, seed: int, batch: int, mix: Mix = DENOISE) -> Callable[[int], Batch]:
    """Return crops `clean`, and `file`: the same, or what a JPEG encoder left of it (uint8, N,H,W,3)."""
    training, _ = validation_split(packs.pictures("photos/train"))
    crops = Crops(training, CROP, batch, seed)
    coded = batch * mix.coded // 16

    def make(index: int) -> Batch:
        clean = crops(index)
        random = np.random.default_rng([seed, index, 1])
        file = clean.copy()
        for i in range(coded):
            file[i] = jpeg(clean[i], random)
        return {"clean": clean, "file": file}

    return make


def degrade(batch: Mapping[str, Any], seed: keras.random.SeedGenerator, mix: Mix = DENOISE) -> tuple[Any, Any]:
    """Return (degraded, clean), float32 in about [0, 1]: JPEG, camera noise, nothing, Gaussian noise, in this order."""
    clean = ops.cast(batch["clean"], "float32") / 255.0
    file = ops.cast(batch["file"], "float32") / 255.0
    count = ops.shape(clean)[0]
    coded = count * mix.coded // 16
    camera = coded + count * mix.camera // 16
    untouched = camera + count * mix.clean // 16
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


def loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """Mean absolute error; clean samples have level 0, so that a clean picture comes back clean."""
    degraded, clean = degrade(batch, seed)
    restored = network({"image": degraded, "level": level_of(degraded, clean)})["image"]
    return ops.mean(ops.abs(restored - clean))


def estimate_network() -> keras.Model:
    """Return image [N,H,W,3] -> level [N,1,1,1]: what the eye of `strength=auto` sees, at half resolution."""
    image = keras.Input((None, None, 3), name="image")
    # What is left of a picture without its local mean is mostly noise, but for edges, which softsign keeps small: on
    # the picture itself the faint traces of a JPEG encoder would take hours to be learned. Twice, for faint and strong.
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
    power = ops.sum(trust * ops.square(value), axis=(1, 2), keepdims=True) / ops.sum(trust, axis=(1, 2), keepdims=True)
    # The root's slope is infinite at zero: a first large step that lands there would be the last.
    return keras.Model({"image": image}, {"level": ops.sqrt(power + 1e-8)}, name="level_estimator")


def estimate_loss(network: keras.Model, batch: Mapping[str, Any], seed: keras.random.SeedGenerator) -> Any:
    """Mean squared error of the logarithm of level + 7.5/75.

    The small number beside the level decides which mistakes near zero matter: much less than this, and the estimator
    calls all JPEG files clean rather than take one clean picture for a JPEG file; much more, and it does the reverse.
    """
    degraded, clean = degrade(batch, seed, ESTIMATE)
    level = level_of(degraded, clean)
    found = network({"image": degraded})["level"]
    return ops.mean(ops.square(ops.log((found + 0.1) / (level + 0.1))))


def _held_out(packs: Packs, size: int = 192) -> np.ndarray:
    """Return the middles of twelve pictures that training never sees, float32 (12, size, size, 3) in [0, 1]."""
    _, kept = validation_split(packs.pictures("photos/train"))
    middles = []
    for picture in kept[:12]:
        top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
        middles.append(picture[top : top + size, left : left + size])
    return np.stack(middles).astype(np.float32) / 255


def _noisy(clean: np.ndarray, sigma: float) -> np.ndarray:
    return clean + np.random.default_rng(7).normal(0, sigma / 255, clean.shape).astype(np.float32)


def _run(network: keras.Model, picture: np.ndarray, sigma: float) -> np.ndarray:
    level = np.full((1, 1, 1, 1), sigma / 255 / LEVEL_UNIT, np.float32)
    return ops.convert_to_numpy(network({"image": picture[None], "level": level})["image"])[0]


def validate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the mean PSNR (dB) of twelve held-out middles at σ 15, 25 and 50, the first being 25."""
    clean = _cached("clean", lambda: _held_out(packs))
    figures = {}
    for sigma in (25, 15, 50):
        restored = [_run(network, noisy, sigma) for noisy in _noisy(clean, sigma)]
        pairs = zip(restored, clean, strict=True)
        figures[f"psnr{sigma}"] = float(np.mean([psnr(np.clip(r, 0, 1) * 255, c * 255) for r, c in pairs]))
    return figures


def validate_estimate(network: keras.Model, packs: Packs) -> dict[str, float]:
    """Return the mean error of the estimated σ on the 8-bit scale over σ 0 to 50, clipped and rounded."""
    clean = _cached("clean", lambda: _held_out(packs))
    errors = []
    for sigma in (0, 5, 15, 25, 50):
        noisy = np.rint(np.clip(_noisy(clean, sigma), 0, 1) * 255) / 255
        truth = np.sqrt(np.mean(np.square(noisy - clean), axis=(1, 2, 3))) * 255
        level = ops.convert_to_numpy(network({"image": noisy})["level"]).reshape(-1)
        errors.append(np.abs(level * LEVEL_UNIT * 255 - truth))
    return {"error255": float(np.mean(errors))}


_CACHE: dict[str, np.ndarray] = {}


def _cached(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    if key not in _CACHE:
        _CACHE[key] = make()
    return _CACHE[key]


def sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return rows of clean | noisy | restored at σ 15, 25 and 50."""
    clean = _cached("clean", lambda: _held_out(packs))[:6]
    rows = []
    for index, (picture, sigma) in enumerate(zip(clean, (15, 25, 50, 15, 25, 50), strict=True)):
        noisy = _noisy(clean, sigma)[index]
        rows.append([picture, noisy, _run(network, noisy, sigma)])
    return sheets.grid(rows)


def estimate_sheet(network: keras.Model, packs: Packs) -> np.ndarray:
    """Return a plot of true against estimated σ: a dot a picture, the diagonal is the truth."""
    clean = _cached("clean", lambda: _held_out(packs))
    truth, found = [], []
    for sigma in range(0, 60, 4):
        noisy = np.clip(_noisy(clean, sigma), 0, 1)
        truth += list(np.sqrt(np.mean(np.square(noisy - clean), axis=(1, 2, 3))) * 255)
        found += list(ops.convert_to_numpy(network({"image": noisy})["level"]).reshape(-1) * LEVEL_UNIT * 255)
    return sheets.scatter(truth, found, highest=60)


def recipe() -> Recipe:
    from training.evaluate import denoising, service_denoising

    return Recipe(
        task="denoise",
        name="photo",
        title="Photographs",
        description="Noise, grain and JPEG artefacts out of photographs, at any strength; estimates it by itself.",
        architecture="U-Net of plain residual blocks told the level (after DRUNet and FFDNet), and a level estimator",
        packs=("photos",),
        parts={
            "denoise": Part(
                network=residual_unet.build,
                loss=loss,
                batches=batches,
                validate=validate,
                sheet=sheet,
                learning_rate=8e-4,
                hours=1.5,
            ),
            "estimate": Part(
                network=estimate_network,
                loss=estimate_loss,
                batches=partial(batches, mix=ESTIMATE),
                validate=validate_estimate,
                sheet=estimate_sheet,
                learning_rate=1e-3,
                hours=0.2,
            ),
        },
        geometry={"kind": "tiled", "multiple": 8, "tile_size": 512, "tile_step": 64, "halo": None},
        evaluate=denoising,
        evaluate_service=service_denoising,
    )
