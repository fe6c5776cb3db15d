"""How a photo denoiser is measured: the literature's protocol, clean pictures, cameras, and real noisy pictures.

Every picture is run whole, one at a time, reflect-padded to a multiple of eight. `auto` and `strength` do as the
service does: the noise is estimated, one of two networks is chosen by it, and the correction is limited. But the
service takes the medians of the estimates for up to eight tiles of a large picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from keras import ops

from training.data import camera
from training.data.degradations import LEVEL_UNIT
from training.data.packs import Packs, WrongPack
from training.evaluation.limiter import limit_correction
from training.evaluation.metrics import psnr, ssim
from training.evaluation.photos import HIGHEST, eight_bit, pad_to_multiple
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress

if TYPE_CHECKING:
    import keras

COMMAND = "python -m training evaluate denoise_photo"
CORRELATED, CORRELATED_IF_FAINT = 0.1, 0.2
"""The correlation from which on `denoise_correlated` is used, as in the service."""
STRONG = 8 / 75
"""The level below which noise is faint, as in the service."""
WHITE = 0.2
"""The correlation below which the picture at half size is believed."""
SMALLEST = 32
"""Pixels a side that the estimator needs."""
EXCESS, LARGEST_EXCESS = 2.7, 1.95
"""How much too high the level is that is told for correlated noise, as in the service."""
SIGMAS = (15, 25, 50)
QUALITIES = (30, 50, 70, 90)
FAINT = (3, 5, 10, 25)
"""The σ that are told for pictures that are clean but for it."""
SIDE = 256
"""Pixels a side of the parts of pictures that are measured where whole pictures would take too long."""
CAMERAS = 3
"""Simulated cameras that take each picture."""
CAMERA_SEED = 10**6
"""Cameras and their noise are drawn from `[CAMERA_SEED, picture, camera]`; training's end in 1, and its seed is 0."""
STRENGTHS = (3, 8, 20)
"""Where the groups of cameras end, by the root mean square of what they did to the picture."""
PLAIN_SIGMAS = (5, 10, 15, 20, 30, 40, 50)
"""The σ that `denoise` is told for real pictures, until it leaves no more than HALF of the noise."""
HALF = 0.5
PATCH = 16
"""Pixels a side of the patches in which the noise of real pictures is measured."""

BASELINES: dict[str, list[str | float]] = {
    "CBM3D": [34.28, 31.68, 28.46, 33.52, 30.71, 27.38],
    "DnCNN": [34.48, 32.03, 28.85, 33.89, 31.23, 27.92],
    "FFDNet": [34.63, 32.13, 28.98, 33.87, 31.21, 27.96],
    "DRUNet (33 M parameters)": [35.31, 32.89, 29.86, 34.30, 31.69, 28.51],
    "Restormer": [35.47, 33.04, 30.01, 34.40, 31.79, 28.60],
}

Restore = Callable[[np.ndarray, "float | None"], np.ndarray]
"""(noisy uint8 RGB, level or None for auto) -> uint8 RGB."""


class Noise(NamedTuple):
    """What a picture's noise was found to be."""

    level: float
    """From 0 to 1, which is 75/255."""
    correlation: float
    """From 0, white; 0 where the model does not estimate it."""
    certain: bool = False
    """Whether it is white at half size, so that it is no texture."""

    @property
    def sigma(self) -> float:
        """The level on the scale of 255."""
        return self.level * LEVEL_UNIT * 255

    @property
    def correlated(self) -> bool:
        """Whether it is alike in neighboring pixels."""
        return self.correlation >= (CORRELATED if self.level >= STRONG else CORRELATED_IF_FAINT)


def measure(networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
    """Return the tables of a photo denoiser: `denoise` and `denoise_correlated` (image, level), and `estimate`.

    The second network, and the correlation that chooses it, may be missing.
    """

    def restore(picture: np.ndarray, level: float | None) -> np.ndarray:
        return eight_bit(run_denoiser(networks, as_image(picture), level) * 255)

    return [
        *_literature(networks, packs),
        _service_table(restore, packs, "networks run whole"),
        *_clean_tables(restore, packs, networks),
        _camera_table(networks, packs),
        _real_table(restore, packs),
        _noise_left_table(networks, packs),
        _estimate_table(networks, packs),
    ]


def measure_service(url: str, packs: Packs) -> list[ResultTable]:
    """Return the tables of `denoise/photo` that need no network by itself, as the service at `url` answers."""
    service = Service(url)
    options = " --url " + url

    def restore(picture: np.ndarray, level: float | None) -> np.ndarray:
        return service.denoise(picture, "photo", level)

    return [
        _service_table(restore, packs, url, options),
        *_clean_tables(restore, packs, options=options),
        _real_table(restore, packs, options),
    ]


# --- running the networks ---


def estimate_noise(networks: Mapping[str, keras.Model], image: np.ndarray) -> Noise:
    """Return the noise that `estimate` finds in float32 `image` (h, w, 3), or in its means over 2x2 pixels.

    These have no more noise than the picture, and grain is whiter there.
    """
    found = _estimate(networks, image)
    height, width = (side // 2 for side in image.shape[:2])
    if min(height, width) < SMALLEST:
        return found
    half = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, image.shape[-1]).mean(axis=(1, 3))
    reduced = _estimate(networks, half)
    if reduced.correlation >= WHITE or reduced.level <= found.level:
        return found
    return found._replace(level=reduced.level, certain=True)


def _estimate(networks: Mapping[str, keras.Model], image: np.ndarray) -> Noise:
    found = networks["estimate"]({"image": pad_to_multiple(image)})
    if "correlation" not in found:
        return Noise(min(max(float(ops.convert_to_numpy(found["level"]).reshape(())), 0.0), 1.0), 0.0)
    level, correlation = (float(ops.convert_to_numpy(found[key]).reshape(())) for key in ("level", "correlation"))
    return Noise(min(max(level, 0.0), 1.0), correlation)


def is_gray(image: np.ndarray) -> bool:
    """Return whether all channels of `image` (h, w, 3) are the same."""
    return bool((image == image[..., :1]).all())


def run_denoiser(networks: Mapping[str, keras.Model], image: np.ndarray, level: float | None = None) -> np.ndarray:
    """Return float32 (h, w, 3) restored, not clipped, from float32 `image`, as the service does it.

    Without a level it is estimated; the network is chosen by the estimated correlation either way.
    """
    if level is not None and "denoise_correlated" not in networks:
        return run_limited(networks["denoise"], image, level)
    return remove_noise(networks, image, estimate_noise(networks, image), level)


def remove_noise(
    networks: Mapping[str, keras.Model], image: np.ndarray, noise: Noise, level: float | None = None
) -> np.ndarray:
    """Return the same for noise that was estimated before.

    Without a level the network is told the noise's, and a higher one for correlated noise, as the service does.
    """
    chooses = "denoise_correlated" in networks
    correlated = chooses and (noise.correlated or is_gray(image))
    network = networks["denoise_correlated" if correlated else "denoise"]
    if level is not None:
        return run_limited(network, image, level)
    excess = min(1 + EXCESS * noise.correlation, LARGEST_EXCESS) if chooses and noise.correlated else 1.0
    return run_limited(network, image, min(noise.level * excess, 1.0), None if noise.certain else noise.level)


def run_limited(network: keras.Model, image: np.ndarray, level: float, estimated: float | None = None) -> np.ndarray:
    """Return what one network makes of float32 `image`, its correction limited to noise of `level`.

    Where the level was `estimated` (before it was raised for correlated noise), texture is spared.
    """
    found = None if estimated is None else estimated * LEVEL_UNIT
    return limit_correction(image, run_network(network, image, level), level * LEVEL_UNIT, found)


def run_network(network: keras.Model, image: np.ndarray, level: float) -> np.ndarray:
    """Return what one network makes of float32 `image` (h, w, 3), told the level: neither limited nor clipped."""
    inputs = {"image": pad_to_multiple(image), "level": np.full((1, 1, 1, 1), level, np.float32)}
    return ops.convert_to_numpy(network(inputs)["image"])[0, : image.shape[0], : image.shape[1]]


def non_local_means(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Return uint8 RGB through OpenCV's non-local means for color, given σ (0.7 σ was best of 0.5, 0.7 and 0.9)."""
    strength = 0.7 * sigma
    return cv2.fastNlMeansDenoisingColored(picture, None, strength, strength, 7, 21)


def as_image(picture: np.ndarray) -> np.ndarray:
    """Return uint8 pixels as float32 in [0, 1]."""
    return (picture / 255).astype(np.float32)


def level_of_sigma(sigma: float) -> float:
    """Return the level of noise of deviation `sigma` on the scale of 255."""
    return sigma / 255 / LEVEL_UNIT


# --- pictures ---


def load_kodak24(packs: Packs) -> list[np.ndarray]:
    """Return the 24 Kodak pictures, uint8 RGB, sorted by name."""
    return packs.pictures("photos/test/Kodak24")


def load_cbsd68(packs: Packs) -> list[np.ndarray]:
    """Return the 68 pictures of CBSD68, uint8 RGB, sorted by name."""
    names = set((packs.folder("photos/test") / "CBSD68_names.txt").read_text(encoding="utf-8").split())
    names |= {name.rpartition(".")[0] for name in names}
    files = packs.files("photos/test/B100")
    chosen = [i for i, file in enumerate(files) if file.name in names or file.stem in names]
    if len(chosen) != 68:
        raise WrongPack(f"photos/test/B100 has {len(chosen)} of the 68 pictures of CBSD68")
    pictures = packs.pictures("photos/test/B100")
    return [pictures[i] for i in chosen]


def load_clean(packs: Packs) -> dict[str, dict[str, np.ndarray]]:
    """Return clean pictures by set and name, uint8 RGB: Kodak24, Set5, Set14, and those that scikit-image ships."""
    import skimage.data  # not installed on the training machine

    sets = {name: _load_named(packs, f"photos/test/{name}") for name in ("Kodak24", "Set5", "Set14")}
    names = ("astronaut", "chelsea", "coffee", "rocket", "camera", "grass", "gravel", "moon")
    sets["scikit-image"] = {name: _in_color(getattr(skimage.data, name)()) for name in names}
    return sets


def load_real_damage(packs: Packs) -> Iterator[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Yield (name, pairs of (spoiled, clean), uint8 RGB): camera noise, JPEG by quality, and nothing at all."""
    pictures = _load_named(packs, "photos/test/PolyU")
    scenes = sorted(stem.removesuffix("_real") for stem in pictures if stem.endswith("_real"))
    yield "PolyU (camera noise)", [(pictures[f"{scene}_real"], pictures[f"{scene}_mean"]) for scene in scenes]
    clean = load_kodak24(packs)
    for quality in QUALITIES:
        pairs = [(camera.encode(picture, quality, halved=True), picture) for picture in clean]
        yield f"Kodak24, JPEG quality {quality}", pairs
    yield "Kodak24, clean", [(picture, picture) for picture in clean]


def load_real(packs: Packs) -> dict[str, np.ndarray]:
    """Return noisy pictures as people have them, without a clean one to compare with, by name: uint8 RGB."""
    return _load_named(packs, "real/denoise")


def camera_pairs(packs: Packs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (spoiled, clean), uint8 RGB: the middle of Kodak24's and Set14's pictures as simulated cameras take it."""
    for place, picture in enumerate(load_kodak24(packs) + packs.pictures("photos/test/Set14")):
        middle = _middle(picture)
        for number in range(CAMERAS):
            random = np.random.default_rng([CAMERA_SEED, place, number + 2])
            drawn = camera.draw(random)._replace(gray=number == CAMERAS - 1)
            yield camera.take(middle, drawn, random), camera.to_gray(middle) if drawn.gray else middle


def add_noise(picture: np.ndarray, index: int, sigma: float) -> np.ndarray:
    """Return `picture` plus white noise of deviation `sigma`, float64 on the scale of 255, seeded by its index."""
    return picture + np.random.default_rng(index).normal(0, sigma, picture.shape)


def _load_named(packs: Packs, folder: str) -> dict[str, np.ndarray]:
    return dict(zip((file.stem for file in packs.files(folder)), packs.pictures(folder), strict=True))


def _in_color(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)


# --- tables ---


def _literature(networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
    figures: dict[str, list[list[float]]] = {"OpenCV, non-local means": [], "denoise/photo": []}
    for name, pictures in (("Kodak24", load_kodak24(packs)), ("CBSD68", load_cbsd68(packs))):
        for sigma in SIGMAS:
            report_progress(f"literature protocol, {name}, σ {sigma}")
            pairs: dict[str, list[tuple[float, float]]] = {method: [] for method in figures}
            for index, clean in enumerate(pictures):
                spoiled = add_noise(clean, index, sigma)
                restored = run_limited(networks["denoise"], as_image(spoiled), level_of_sigma(sigma))
                means = non_local_means(eight_bit(spoiled), sigma)
                for method, result in zip(figures, (means, eight_bit(restored * 255)), strict=True):
                    pairs[method].append((psnr(result, clean), ssim(result, clean)))
            for method, measured in pairs.items():
                figures[method].append([float(mean) for mean in np.mean(measured, axis=0)])
    columns = ["", *(f"{name} σ {sigma}" for name in ("Kodak24", "CBSD68") for sigma in SIGMAS)]
    rows: list[list[str | float]] = [[name, *cells] for name, cells in BASELINES.items()]
    rows += [[name, *(pair[0] for pair in pairs)] for name, pairs in figures.items()]
    likeness: list[list[str | float]] = [[name, *(pair[1] for pair in pairs)] for name, pairs in figures.items()]
    note = (
        "Noise not clipped, σ given (non-local means gets the noise clipped and rounded, as its 8 bit demand); results "
        "clipped and rounded. `denoise` is the network, its correction limited as in the service. The papers' Kodak24 "
        "was cropped to 500×500, here the pictures are whole."
    )
    return [
        ResultTable("Literature protocol, PSNR in dB", COMMAND, columns, rows, note),
        ResultTable("Literature protocol, SSIM", COMMAND, columns, likeness),
    ]


def _service_table(restore: Restore, packs: Packs, where: str, options: str = "") -> ResultTable:
    rows: list[list[str | float]] = [["noisy"], ["strength = σ/75"], ["strength = auto"]]
    pictures = load_cbsd68(packs)
    for sigma in SIGMAS:
        report_progress(f"service protocol, σ {sigma}")
        found = []
        for index, clean in enumerate(pictures):
            spoiled = eight_bit(add_noise(clean, index, sigma))
            results = spoiled, restore(spoiled, level_of_sigma(sigma)), restore(spoiled, None)
            found.append([psnr(result, clean) for result in results])
        for row, mean in zip(rows, np.mean(found, axis=0), strict=True):
            row.append(float(mean))
    columns = ["", *(f"CBSD68 σ {sigma}" for sigma in SIGMAS)]
    note = f"Noise clipped and rounded to 8 bit, 8 bit both ways; {where}."
    return ResultTable("Service protocol, PSNR in dB", COMMAND + options, columns, rows, note)


def _clean_tables(
    restore: Restore, packs: Packs, networks: Mapping[str, keras.Model] | None = None, options: str = ""
) -> list[ResultTable]:
    """Return what `auto` does to clean pictures, and what is gained where faint noise is told."""
    kept: list[list[str | float]] = []
    gained: list[list[str | float]] = []
    for name, pictures in load_clean(packs).items():
        report_progress(f"clean pictures, {name}")
        alike = {key: min(psnr(restore(picture, None), picture), HIGHEST) for key, picture in pictures.items()}
        row: list[str | float] = [name, float(np.mean(list(alike.values()))), *_worst(alike)]
        if networks:
            sigmas = {key: estimate_noise(networks, as_image(picture)).sigma for key, picture in pictures.items()}
            highest = max(sigmas, key=lambda key: sigmas[key])
            row += [float(np.mean(list(sigmas.values()))), sigmas[highest], highest]
        kept.append(row)
        row = [name]
        for sigma in FAINT:
            gains = {}
            for index, (key, picture) in enumerate(pictures.items()):
                middle = _middle(picture)
                noisy = eight_bit(add_noise(middle, index, sigma))
                gains[key] = psnr(restore(noisy, level_of_sigma(sigma)), middle) - psnr(noisy, middle)
            worst, where = _worst(gains)
            row += [float(np.mean(list(gains.values()))), f"{worst:.2f} ({where})"]
        gained.append(row)
    columns = ["", "mean", "worst", "picture"]
    columns += ["estimated σ, mean", "highest", "picture"] if networks else []
    note = f"Compared with itself; an exact picture counts as {HIGHEST:g} dB."
    told = f"Noise clipped and rounded, 8 bit both ways; the middle of each picture, at most {SIDE}×{SIDE}."
    return [
        ResultTable("Clean pictures, strength = auto, PSNR in dB", COMMAND + options, columns, kept, note),
        ResultTable(
            "Clean pictures with faint noise, strength = σ/75, gain in dB",
            COMMAND + options,
            ["", *(f"σ {sigma}{kind}" for sigma in FAINT for kind in (", mean", ", worst"))],
            gained,
            told,
        ),
    ]


def _camera_table(networks: Mapping[str, keras.Model], packs: Packs) -> ResultTable:
    report_progress("simulated cameras")
    groups: list[list[list[float]]] = [[] for _ in range(len(STRENGTHS) + 1)]
    for spoiled, clean in camera_pairs(packs):
        truth = _rms(spoiled, clean)
        image = as_image(spoiled)
        noise = estimate_noise(networks, image)
        told = eight_bit(run_limited(networks["denoise"], image, level_of_sigma(truth)) * 255)
        results = spoiled, eight_bit(remove_noise(networks, image, noise) * 255), non_local_means(spoiled, truth), told
        figures = [min(psnr(result, clean), HIGHEST) for result in results]
        apart = [noise.sigma - truth, abs(noise.sigma - truth), 100.0 * noise.correlated]
        groups[int(np.searchsorted(STRENGTHS, truth))].append([*figures, *apart])
    bounds = [0, *STRENGTHS]
    names = [f"{low} to {high}" for low, high in zip(bounds, STRENGTHS, strict=False)] + [f"above {STRENGTHS[-1]}"]
    rows: list[list[str | float]] = [
        [name, str(len(group)), *(float(mean) for mean in np.mean(group, axis=0))]
        for name, group in zip(names, groups, strict=True)
        if group
    ]
    columns = ["RMS of the damage", "pictures", "before", "auto", "OpenCV, non-local means", "`denoise`, told the RMS"]
    columns += ["error of the estimated σ", "absolute", "taken for correlated, %"]
    note = (
        f"The middle of the pictures of Kodak24 and Set14, at most {SIDE}×{SIDE}, as {CAMERAS} simulated cameras take "
        "each (`training/data/camera.py`, seeds that training does not use), a third of them in gray. Non-local means "
        "is told the RMS too."
    )
    return ResultTable("Simulated cameras, PSNR in dB", COMMAND, columns, rows, note)


def _real_table(restore: Restore, packs: Packs, options: str = "") -> ResultTable:
    rows: list[list[str | float]] = []
    for name, pairs in load_real_damage(packs):
        report_progress(name)
        figures = [
            (min(psnr(spoiled, clean), HIGHEST), min(psnr(restore(spoiled, None), clean), HIGHEST))
            for spoiled, clean in pairs
        ]
        before, after = np.mean(figures, axis=0)
        rows.append([name, float(before), float(after), float(after - before) if before < HIGHEST else ""])
    note = f"An exact picture counts as {HIGHEST:g} dB."
    columns = ["", "before", "after", "gain"]
    return ResultTable("Real damage, strength = auto, PSNR in dB", COMMAND + options, columns, rows, note)


def _noise_left_table(networks: Mapping[str, keras.Model], packs: Packs) -> ResultTable:
    rows: list[list[str | float]] = []
    for name, picture in load_real(packs).items():
        report_progress(f"real pictures, {name}")
        patches = flattest_patches(picture)
        image = as_image(picture)
        noise = estimate_noise(networks, image)
        before = noise_in(picture, patches)
        restored = eight_bit(remove_noise(networks, image, noise) * 255), non_local_means(picture, noise.sigma)
        shares = [noise_in(result, patches) / before for result in restored]
        for sigma in PLAIN_SIGMAS:
            plain = eight_bit(run_network(networks["denoise"], image, level_of_sigma(sigma)) * 255)
            left = noise_in(plain, patches) / before
            if left <= HALF:
                break
        rows.append([name, before, noise.sigma, noise.correlation, *shares, left, str(sigma)])
    columns = ["", "noise, σ", "estimated σ", "correlation", "auto", "OpenCV, non-local means"]
    columns += ["`denoise` alone", "told σ"]
    note = (
        f"Noise is what differs from the plane that fits best, in the flattest tenth of {PATCH}×{PATCH} patches: those "
        "where the input, smoothed, changes least, without clipped ones. Non-local means is told the estimated σ; "
        f"`denoise` alone, which is not limited, the smallest σ of {', '.join(map(str, PLAIN_SIGMAS))} that leaves "
        "half of the noise, or the largest."
    )
    return ResultTable("Real pictures, noise left in flat places, share of the input's", COMMAND, columns, rows, note)


def flattest_patches(picture: np.ndarray, share: float = 0.1) -> list[tuple[int, int]]:
    """Return the upper left corners (row, column) of the flattest patches of uint8 RGB `picture`.

    These are the `share` of 16x16 patches, at least one, in which the picture, smoothed until noise is gone, has the
    smallest gradient. Patches with more than 1 % of black or white values are left out: noise is cut there.
    """
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 4)
    steepness = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)).mean(axis=-1)
    found = []
    for top in range(0, picture.shape[0] - PATCH + 1, PATCH):
        for left in range(0, picture.shape[1] - PATCH + 1, PATCH):
            place = (slice(top, top + PATCH), slice(left, left + PATCH))
            clipped = np.mean((picture[place] == 0) | (picture[place] == 255)) > 0.01
            found.append((bool(clipped), float(steepness[place].mean()), (top, left)))
    found.sort()
    return [corner for _, _, corner in found[: max(1, round(share * sum(not clipped for clipped, _, _ in found)))]]


def noise_in(picture: np.ndarray, patches: Sequence[tuple[int, int]]) -> float:
    """Return the standard deviation of the pixels of `picture` (h, w, 3) around the planes that fit the patches."""
    rows, columns = np.mgrid[:PATCH, :PATCH]
    plane = np.stack([np.ones(PATCH * PATCH), rows.ravel(), columns.ravel()], axis=1)
    pixels = [picture[top : top + PATCH, left : left + PATCH].reshape(PATCH * PATCH, 3) for top, left in patches]
    values = np.concatenate(pixels, axis=1).astype(np.float64)
    return float(np.std(values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]))


def _estimate_table(networks: Mapping[str, keras.Model], packs: Packs) -> ResultTable:
    rows: list[list[str | float]] = []
    for sigma in (0, 5, *SIGMAS):
        report_progress(f"estimates, σ {sigma}")
        apart = []
        for index, clean in enumerate(load_cbsd68(packs)):
            spoiled = eight_bit(add_noise(clean, index, sigma))
            noise = estimate_noise(networks, as_image(spoiled))
            apart.append((noise.sigma - _rms(spoiled, clean), noise.correlated))
        errors = np.array([error for error, _ in apart])
        share = 100.0 * np.mean([correlated for _, correlated in apart])
        rows.append([f"σ {sigma}", float(np.mean(errors)), float(np.mean(np.abs(errors))), float(share)])
    columns = ["CBSD68", "mean error", "mean absolute error", "taken for correlated, %"]
    note = "White noise, clipped and rounded."
    return ResultTable("What `auto` estimates, in levels of 255", COMMAND, columns, rows, note)


def _middle(picture: np.ndarray) -> np.ndarray:
    """Return the middle of a picture, at most SIDE pixels a side."""
    top, left = (max(0, size - SIDE) // 2 for size in picture.shape[:2])
    return picture[top : top + SIDE, left : left + SIDE]


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))


def _worst(figures: Mapping[str, float]) -> tuple[float, str]:
    where = min(figures, key=lambda key: figures[key])
    return figures[where], where
