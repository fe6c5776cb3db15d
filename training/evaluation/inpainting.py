"""How inpainting is measured: the same holes for every method, by how much of the picture they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
from PIL import Image

from training.data.holes import BINS, holes, scratches
from training.data.packs import Packs
from training.evaluation.metrics import psnr
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(picture uint8 (height, width[, 3]), missing bool (height, width)) -> uint8 of the picture's shape."""
FOLDER = "photos/test/Kodak24"
SCRATCHES = 12


def silhouettes(packs: Packs, split: str) -> list[np.ndarray]:
    """Return the people of pack `person` as bool (height, width)."""
    found = []
    for file in packs.files(f"person/{split}/masks"):
        with Image.open(file) as image:
            found.append(np.asarray(image.convert("L")) > 0)
    return found


def in_hole_psnr(found: np.ndarray, true: np.ndarray, missing: np.ndarray) -> float:
    """Return the PSNR in dB of two uint8 pictures over what is `missing`."""
    return psnr(found[missing], true[missing])


def mean_fill(picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return the picture with the mean color of what is known in its holes."""
    found = picture.copy()
    found[missing] = np.rint(picture[~missing].mean(axis=0))
    return found


def biharmonic(picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return the picture filled by scikit-image."""
    from skimage.restoration import inpaint_biharmonic  # not installed on the training machine

    found = inpaint_biharmonic(picture / 255, missing, channel_axis=-1 if picture.ndim == 3 else None)
    return np.clip(np.rint(found * 255), 0, 255).astype(np.uint8)


def classical(flag: int, picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return the picture filled by OpenCV, radius 3."""
    return np.asarray(cv2.inpaint(np.ascontiguousarray(picture), missing.astype(np.uint8), 3, flag))


CLASSICAL: Mapping[str, Fill] = {
    "the mean of what is known": mean_fill,
    "Telea": partial(classical, cv2.INPAINT_TELEA),
    "Navier-Stokes": partial(classical, cv2.INPAINT_NS),
    "biharmonic": biharmonic,
}


def photo_tables(ours: Fill, people: Sequence[np.ndarray], packs: Packs) -> list[ResultTable]:
    """Return what the classical methods and `ours` reach on Kodak24, in dB inside the holes."""
    return tables({**CLASSICAL, "inpaint/photo": ours}, people, packs, "python -m training evaluate inpaint_photo")


def service_tables(url: str, people: Sequence[np.ndarray], packs: Packs) -> list[ResultTable]:
    """Return the same through the service at `url`, each method by its name there. Raises ServiceProblem."""
    service = Service(url)
    names = {
        "Telea": "telea",
        "Navier-Stokes": "ns",
        "biharmonic": "biharmonic",
        "inpaint/photo": "neural",
    }
    methods: dict[str, Fill] = {"the mean of what is known": mean_fill}
    methods |= {f"{title}, served": partial(service.inpaint, method=name) for title, name in names.items()}
    return tables(methods, people, packs, f"python -m training evaluate inpaint_photo --url {url}")


def tables(methods: Mapping[str, Fill], people: Sequence[np.ndarray], packs: Packs, command: str) -> list[ResultTable]:
    """Return what `methods` reach on Kodak24, in dB inside the holes: by the share that is missing, and scratches."""
    report_progress(command)
    pictures = packs.pictures(FOLDER)
    figures: dict[str, list[float]] = {name: [] for name in methods}
    for number, picture in enumerate(pictures):
        random = np.random.default_rng(number)
        size = picture.shape[0], picture.shape[1]
        kinds = [holes(size, share, random, people) for share in BINS] + [scratches(size, SCRATCHES, random)]
        for missing in kinds:
            damaged = np.where(missing[..., None], np.uint8(0), picture)
            for name, fill in methods.items():
                figures[name].append(in_hole_psnr(fill(damaged, missing), picture, missing))
    columns = ["", *(f"{100 * low:g}-{100 * high:g} %" for low, high in BINS), f"{SCRATCHES} scratches"]
    rows: list[list[str | float]] = [
        [name, *np.reshape(values, (len(pictures), -1)).mean(axis=0).tolist()] for name, values in figures.items()
    ]
    note = (
        "Strokes, boxes and silhouettes of people, by the share of the picture that is missing; scratches of 1 to 5 px."
    )
    return [ResultTable("Kodak24, PSNR inside the holes, dB", command, columns, rows, note)]
