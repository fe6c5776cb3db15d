"""The protocol by which photo models are measured: the literature's tables, real damage, and the running service.

Every picture is run whole, one at a time, reflect-padded to a multiple of eight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from keras import ops
from PIL import Image

from training.data.degradations import LEVEL_UNIT
from training.data.imresize import imresize
from training.data.packs import Packs, WrongPack
from training.evaluation.metrics import psnr, ssim, y_channel
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress

if TYPE_CHECKING:
    import keras

SIGMAS = (15, 25, 50)
QUALITIES = (30, 50, 70, 90)
SCALES = (2, 3, 4)
HIGHEST = 99.0
"""What an exact result counts as, in dB, so that a mean stays finite."""
MULTIPLE = 8

DENOISING_BASELINES: dict[str, list[str | float]] = {
    "CBM3D": [34.28, 31.68, 28.46, 33.52, 30.71, 27.38],
    "DnCNN": [34.48, 32.03, 28.85, 33.89, 31.23, 27.92],
    "FFDNet": [34.63, 32.13, 28.98, 33.87, 31.21, 27.96],
    "DRUNet (33 M parameters)": [35.31, 32.89, 29.86, 34.30, 31.69, 28.51],
    "Restormer": [35.47, 33.04, 30.01, 34.40, 31.79, 28.60],
}
SUPERRESOLUTION_BASELINES: dict[str, list[float]] = {
    "FSRCNN": [37.00, 33.16, 30.71, 32.63, 29.43, 27.59, 31.53, 28.53, 26.98],
    "VDSR": [37.53, 33.66, 31.35, 33.03, 29.77, 28.01, 31.90, 28.82, 27.29],
    "IMDN (0.7 M)": [38.00, 34.36, 32.21, 33.63, 30.32, 28.58, 32.19, 29.09, 27.56],
    "SwinIR-light": [38.14, 34.62, 32.44, 33.86, 30.54, 28.77, 32.31, 29.20, 27.69],
}

Denoise = Callable[[np.ndarray, "float | None"], np.ndarray]
"""(noisy uint8 RGB, level or None for auto) -> uint8 RGB."""
Enlarge = Callable[[np.ndarray, int], np.ndarray]
"""(small uint8 RGB, scale) -> uint8 RGB."""


# --- denoising ---


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


def add_noise(picture: np.ndarray, index: int, sigma: float) -> np.ndarray:
    """Return `picture` plus white noise of deviation `sigma`, float64 on the scale of 255, seeded by its index."""
    return picture + np.random.default_rng(index).normal(0, sigma, picture.shape)


def eight_bit(picture: np.ndarray) -> np.ndarray:
    """Return a picture on the scale of 255 clipped and rounded to uint8."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def measure_denoising(networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
    """Return the tables of a photo denoiser with the parts `denoise` (image, level) and `estimate`."""

    def restore(picture: np.ndarray, level: float | None) -> np.ndarray:
        image = (picture / 255).astype(np.float32)
        return eight_bit(run_denoiser(networks, image, level) * 255)

    return [
        *_literature(networks, packs),
        _service_table(restore, packs, "networks run whole"),
        _real_table(restore, packs),
        _estimate_table(networks, packs),
    ]


def measure_denoising_service(url: str, packs: Packs) -> list[ResultTable]:
    """Return the tables of `denoise/photo` as the service at `url` answers."""
    service = Service(url)

    def restore(picture: np.ndarray, level: float | None) -> np.ndarray:
        return service.denoise(picture, "photo", level)

    return [_service_table(restore, packs, url, " --url " + url), _real_table(restore, packs, " --url " + url)]


def run_denoiser(networks: Mapping[str, keras.Model], image: np.ndarray, level: float | None) -> np.ndarray:
    """Return float32 (h, w, 3) restored, not clipped, from float32 `image`; without a level it is estimated."""
    padded = _pad_to_multiple(image)
    if level is None:
        found = networks["estimate"]({"image": padded})["level"]
        level = float(np.clip(ops.convert_to_numpy(found).reshape(()), 0, 1))
    inputs = {"image": padded, "level": np.full((1, 1, 1, 1), level, np.float32)}
    restored = ops.convert_to_numpy(networks["denoise"](inputs)["image"])
    return restored[0, : image.shape[0], : image.shape[1]]


def _literature(networks: Mapping[str, keras.Model], packs: Packs) -> list[ResultTable]:
    figures: dict[str, list[list[float]]] = {"OpenCV, non-local means": [], "denoise/photo": []}
    for name, pictures in (("Kodak24", load_kodak24(packs)), ("CBSD68", load_cbsd68(packs))):
        for sigma in SIGMAS:
            report_progress(f"literature protocol, {name}, σ {sigma}")
            pairs: dict[str, list[tuple[float, float]]] = {method: [] for method in figures}
            for index, clean in enumerate(pictures):
                spoiled = add_noise(clean, index, sigma)
                image, level = (spoiled / 255).astype(np.float32), sigma / 255 / LEVEL_UNIT
                ours = eight_bit(run_denoiser(networks, image, level) * 255)
                means = non_local_means(eight_bit(spoiled), sigma)
                for method, result in zip(figures, (means, ours), strict=True):
                    pairs[method].append((psnr(result, clean), ssim(result, clean)))
            for method, measured in pairs.items():
                figures[method].append([float(mean) for mean in np.mean(measured, axis=0)])
    columns = ["", *(f"{name} σ {sigma}" for name in ("Kodak24", "CBSD68") for sigma in SIGMAS)]
    command = "python -m training evaluate denoise_photo"
    rows: list[list[str | float]] = [[name, *cells] for name, cells in DENOISING_BASELINES.items()]
    rows += [[name, *(pair[0] for pair in pairs)] for name, pairs in figures.items()]
    likeness: list[list[str | float]] = [[name, *(pair[1] for pair in pairs)] for name, pairs in figures.items()]
    note = (
        "Noise not clipped, σ given (non-local means gets the noise clipped and rounded, as its 8 bit demand); results "
        "clipped and rounded. The papers' Kodak24 was cropped to 500×500, here the pictures are whole."
    )
    return [
        ResultTable("Literature protocol, PSNR in dB", command, columns, rows, note),
        ResultTable("Literature protocol, SSIM", command, columns, likeness),
    ]


def non_local_means(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Return uint8 RGB through OpenCV's non-local means for color, given σ (0.7 σ was best of 0.5, 0.7 and 0.9)."""
    strength = 0.7 * sigma
    return cv2.fastNlMeansDenoisingColored(picture, None, strength, strength, 7, 21)


def _service_table(restore: Denoise, packs: Packs, where: str, options: str = "") -> ResultTable:
    rows: list[list[str | float]] = [["noisy"], ["strength = σ/75"], ["strength = auto"]]
    pictures = load_cbsd68(packs)
    for sigma in SIGMAS:
        report_progress(f"service protocol, σ {sigma}")
        found = []
        for index, clean in enumerate(pictures):
            spoiled = eight_bit(add_noise(clean, index, sigma))
            results = spoiled, restore(spoiled, sigma / 75), restore(spoiled, None)
            found.append([psnr(result, clean) for result in results])
        for row, mean in zip(rows, np.mean(found, axis=0), strict=True):
            row.append(float(mean))
    columns = ["", *(f"CBSD68 σ {sigma}" for sigma in SIGMAS)]
    note = f"Noise clipped and rounded to 8 bit, 8 bit both ways; {where}."
    return ResultTable(
        "Service protocol, PSNR in dB", f"python -m training evaluate denoise_photo{options}", columns, rows, note
    )


def _real_table(restore: Denoise, packs: Packs, options: str = "") -> ResultTable:
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
    command = f"python -m training evaluate denoise_photo{options}"
    columns = ["", "before", "after", "gain"]
    return ResultTable("Real damage, strength = auto, PSNR in dB", command, columns, rows, note)


def load_real_damage(packs: Packs) -> Iterator[tuple[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Yield (name, pairs of (spoiled, clean), uint8 RGB): camera noise, JPEG by quality, and nothing at all."""
    files = packs.files("photos/test/PolyU")
    pictures = dict(zip((file.stem for file in files), packs.pictures("photos/test/PolyU"), strict=True))
    scenes = sorted(stem.removesuffix("_real") for stem in pictures if stem.endswith("_real"))
    yield "PolyU (camera noise)", [(pictures[f"{scene}_real"], pictures[f"{scene}_mean"]) for scene in scenes]
    clean = load_kodak24(packs)
    for quality in QUALITIES:
        yield f"Kodak24, JPEG quality {quality}", [(jpeg(picture, quality), picture) for picture in clean]
    yield "Kodak24, clean", [(picture, picture) for picture in clean]


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """Return uint8 RGB after a JPEG encoder with halved color."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", picture[..., ::-1], settings)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if decoded is None:
        raise RuntimeError("OpenCV cannot encode a JPEG")
    return np.ascontiguousarray(decoded[..., ::-1])


def _estimate_table(networks: Mapping[str, keras.Model], packs: Packs) -> ResultTable:
    rows: list[list[str | float]] = []
    for sigma in (0, 5, *SIGMAS):
        apart = []
        for index, clean in enumerate(load_cbsd68(packs)):
            spoiled = eight_bit(add_noise(clean, index, sigma))
            truth = np.sqrt(np.mean(np.square(spoiled.astype(np.float64) - clean)))
            found = networks["estimate"]({"image": _pad_to_multiple((spoiled / 255).astype(np.float32))})["level"]
            apart.append(float(ops.convert_to_numpy(found).reshape(())) * LEVEL_UNIT * 255 - truth)
        rows.append([f"σ {sigma}", float(np.mean(apart)), float(np.mean(np.abs(apart)))])
    columns = ["CBSD68", "mean error", "mean absolute error"]
    command = "python -m training evaluate denoise_photo"
    return ResultTable("What `auto` estimates, in levels of 255", command, columns, rows, "Noise clipped and rounded.")


# --- super-resolution ---


def measure_superresolution(
    networks: Mapping[str, keras.Model], packs: Packs, recipe: str = "superres_photo"
) -> list[ResultTable]:
    """Return the tables of a photo enlarger with some of the parts `x2`, `x3`, `x4`."""

    def enlarge(small: np.ndarray, scale: int) -> np.ndarray:
        return eight_bit(run_enlarger(networks[f"x{scale}"], (small / 255).astype(np.float32), scale) * 255)

    scales = [scale for scale in SCALES if f"x{scale}" in networks]
    command = f"python -m training evaluate {recipe}"
    return _measure_superresolution(enlarge, scales, packs, recipe.replace("_", "/"), command)


def measure_superresolution_service(url: str, packs: Packs) -> list[ResultTable]:
    """Return the tables of `superres/photo` as the service at `url` answers."""
    service = Service(url)

    def enlarge(small: np.ndarray, scale: int) -> np.ndarray:
        return service.superres(small, "photo", scale)

    command = f"python -m training evaluate superres_photo --url {url}"
    return _measure_superresolution(enlarge, SCALES, packs, "superres/photo, served", command)


def run_enlarger(network: keras.Model, small: np.ndarray, scale: int) -> np.ndarray:
    """Return float32 (scale*h, scale*w, 3), not clipped, from float32 (h, w, 3)."""
    large = ops.convert_to_numpy(network({"image": _pad_to_multiple(small)})["image"])
    return large[0, : small.shape[0] * scale, : small.shape[1] * scale]


def _measure_superresolution(
    enlarge: Enlarge, scales: Sequence[int], packs: Packs, name: str, command: str
) -> list[ResultTable]:
    sets = ("Set5", "Set14", "B100")
    plain: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    for folder in sets:
        pictures = load_enlargement_set(packs, folder)
        for scale in scales:
            report_progress(f"{folder} ×{scale}")
            plain.append(_mean([bicubic_figures(picture, scale, gray) for picture, gray in pictures]))
            ours.append(_mean([_figures(enlarge, picture, scale, gray) for picture, gray in pictures]))
    columns = ["", *(f"{folder} ×{scale}" for folder in sets for scale in scales)]
    kept = [set_ * len(SCALES) + SCALES.index(scale) for set_ in range(len(sets)) for scale in scales]
    rows: list[list[str | float]] = [["bicubic", *(pair[0] for pair in plain)]]
    rows += [[paper, *(cells[i] for i in kept)] for paper, cells in SUPERRESOLUTION_BASELINES.items()]
    rows += [[name, *(pair[0] for pair in ours)]]
    likeness: list[list[str | float]] = [["bicubic", *(p[1] for p in plain)], [name, *(p[1] for p in ours)]]
    note = "Y of BT.601 in studio range, rounded; `scale` pixels shaved; small pictures by MATLAB's bicubic, 8 bit."
    return [
        ResultTable("Y PSNR in dB", command, columns, rows, note),
        ResultTable("Y SSIM", command, columns, likeness),
    ]


def load_enlargement_set(packs: Packs, folder: str) -> list[tuple[np.ndarray, bool]]:
    """Return the pictures of Set5, Set14 or B100, uint8 RGB, sorted by name, each with whether its file is gray."""
    path = f"photos/test/{folder}"
    return list(zip(packs.pictures(path), (is_grey(file) for file in packs.files(path)), strict=True))


def is_grey(file: Path) -> bool:
    """Return whether a picture file has one channel: such a picture is its own luma, in full range."""
    with Image.open(file) as image:
        return image.mode in ("1", "L")


def bicubic_figures(picture: np.ndarray, scale: int, gray: bool) -> tuple[float, float]:
    """Return (PSNR, SSIM) of reducing and enlarging the luma of `picture` bicubically, as the literature's rows are.

    These are computed on luma throughout, which differs from color by some hundredths.
    """
    truth = luma(crop_to_multiple(picture, scale), gray)
    height, width = truth.shape
    small = eight_bit(imresize(truth[..., None], height // scale, width // scale))
    large = eight_bit(imresize(small, height, width))[..., 0]
    return _compare_inside(large, truth, scale)


def _figures(enlarge: Enlarge, picture: np.ndarray, scale: int, gray: bool) -> tuple[float, float]:
    picture = crop_to_multiple(picture, scale)
    height, width = picture.shape[:2]
    small = eight_bit(imresize(picture, height // scale, width // scale))
    return _compare_inside(luma(enlarge(small, scale), gray), luma(picture, gray), scale)


def crop_to_multiple(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return the largest upper left part whose sides are multiples of `scale`."""
    return picture[: picture.shape[0] // scale * scale, : picture.shape[1] // scale * scale]


def luma(picture: np.ndarray, gray: bool) -> np.ndarray:
    """Return what is compared, uint8 (h, w): Y in studio range, or the channels' mean where the file was gray."""
    return eight_bit(picture.mean(axis=-1) if gray else y_channel(picture))


def _compare_inside(result: np.ndarray, truth: np.ndarray, edge: int) -> tuple[float, float]:
    a, b = result[edge:-edge, edge:-edge], truth[edge:-edge, edge:-edge]
    return min(psnr(a, b), HIGHEST), ssim(a, b)


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(pairs, axis=0)
    return float(first), float(second)


def _pad_to_multiple(image: np.ndarray) -> Any:
    """Return (1, H, W, C) with H and W the next multiples of MULTIPLE, reflected at the right and lower edge."""
    missing = [(0, -size % MULTIPLE) for size in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric")[None]
