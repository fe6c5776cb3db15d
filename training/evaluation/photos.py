"""The protocol by which photo models are measured, and the tables of super-resolution.

Every picture is run whole, one at a time, reflect-padded to a multiple of eight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops
from PIL import Image

from training.data.imresize import imresize
from training.data.packs import Packs
from training.data.reductions import REDUCTIONS, Reduce
from training.evaluation.metrics import psnr, ssim, y_channel
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress

if TYPE_CHECKING:
    import keras

SCALES = (2, 3, 4)
HIGHEST = 99.0
"""What an exact result counts as, in dB, so that a mean stays finite."""
MULTIPLE = 8
EVALUATE = "python -m training evaluate"

SUPERRESOLUTION_BASELINES: dict[str, list[float]] = {
    "FSRCNN": [37.00, 33.16, 30.71, 32.63, 29.43, 27.59, 31.53, 28.53, 26.98],
    "VDSR": [37.53, 33.66, 31.35, 33.03, 29.77, 28.01, 31.90, 28.82, 27.29],
    "IMDN (0.7 M)": [38.00, 34.36, 32.21, 33.63, 30.32, 28.58, 32.19, 29.09, 27.56],
    "SwinIR-light": [38.14, 34.62, 32.44, 33.86, 30.54, 28.77, 32.31, 29.20, 27.69],
}

Enlarge = Callable[[np.ndarray, int], np.ndarray]
"""(small uint8 RGB, scale) -> uint8 RGB."""


def eight_bit(picture: np.ndarray) -> np.ndarray:
    """Return a picture on the scale of 255 clipped and rounded to uint8."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def pad_to_multiple(image: np.ndarray) -> Any:
    """Return (1, H, W, C) with H and W the next multiples of MULTIPLE, reflected at the right and lower edge."""
    missing = [(0, -size % MULTIPLE) for size in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric")[None]


def measure_superresolution(
    networks: Mapping[str, keras.Model], packs: Packs, recipe: str = "superres_photo"
) -> list[ResultTable]:
    """Return the tables of a photo enlarger with some of the parts `x2`, `x3`, `x4`."""

    def enlarge(small: np.ndarray, scale: int) -> np.ndarray:
        return eight_bit(run_enlarger(networks, (small / 255).astype(np.float32), scale) * 255)

    scales = [scale for scale in SCALES if f"x{scale}" in networks]
    command = f"{EVALUATE} {recipe}"
    return _measure_superresolution(enlarge, scales, packs, recipe.replace("_", "/"), command)


def measure_superresolution_service(url: str, packs: Packs) -> list[ResultTable]:
    """Return the tables of `superres/photo` as the service at `url` answers."""
    service = Service(url)

    def enlarge(small: np.ndarray, scale: int) -> np.ndarray:
        return service.superres(small, "photo", scale)

    command = f"{EVALUATE} superres_photo --url {url}"
    return _measure_superresolution(enlarge, SCALES, packs, "superres/photo, served", command)


def measure_reductions(
    networks: Mapping[str, keras.Model], packs: Packs, recipe: str = "superres_photo"
) -> ResultTable:
    """Return the table of pictures that were reduced in several ways, beside bicubic enlargement."""
    pictures = load_enlargement_set(packs, "Set5")
    scales = [scale for scale in SCALES if f"x{scale}" in networks]
    rows: list[list[str | float]] = []
    for name, reduction in REDUCTIONS.items():
        report_progress(f"reduced: {name}")
        row: list[str | float] = [name]
        for scale in scales:
            pairs = [_reduced_figures(networks, reduction, p, scale, gray) for p, gray in pictures]
            row += list(_mean(pairs))
        rows.append(row)
    columns = ["reduction", *(f"{who} ×{scale}" for scale in scales for who in ("bicubic", "ours"))]
    note = (
        "Set5. `none` takes four pixels of each axis by bicubic "
        "interpolation, without a filter; `blur` is a Gaussian of 0.4 small pixels before bicubic reduction."
    )
    return ResultTable("Y PSNR in dB by how the small picture was made", f"{EVALUATE} {recipe}", columns, rows, note)


def _reduced_figures(
    networks: Mapping[str, keras.Model], reduction: Reduce, picture: np.ndarray, scale: int, gray: bool
) -> tuple[float, float]:
    """Return the PSNR of bicubic enlargement and of the network of this scale."""
    picture = crop_to_multiple(picture, scale)
    small, truth = reduction(picture, scale), luma(picture, gray)
    ours = eight_bit(run_enlarger(networks, (small / 255).astype(np.float32), scale) * 255)
    plain = eight_bit(imresize(small, *picture.shape[:2]))
    return tuple(_compare_inside(luma(large, gray), truth, scale)[0] for large in (plain, ours))  # type: ignore[return-value]


def run_enlarger(networks: Mapping[str, keras.Model], small: np.ndarray, scale: int) -> np.ndarray:
    """Return float32 (scale*h, scale*w, 3), not clipped, from float32 (h, w, 3), by the part for this scale.

    Where there is a part `aliasing`, it says how much the exit for pictures that were reduced without a filter counts.
    """
    part = f"x{scale}"
    inputs = {"image": pad_to_multiple(small)}
    if "aliasing" in networks:
        evidence = networks["aliasing"]({"image": small[None]})[part]
        inputs["share"] = ops.convert_to_numpy(ops.sigmoid(evidence))
    large = ops.convert_to_numpy(networks[part](inputs)["image"])
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
