"""How filled holes look: boxes and silhouettes as somebody would remove objects, and strokes of several widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from training.data.packs import Packs
from training.evaluation.inpainting import FOLDER, Fill, in_hole_psnr
from training.evaluation.perception import FeatureDistance, detail
from training.evaluation.tables import ResultTable, report_progress

SIDES = (64, 200)
"""Sides, in pixels, of boxes and silhouettes for wide holes."""
STROKE = 160
"""Side, in pixels, of the square that the corners of a stroke lie in."""
WIDTHS = (4, 8, 12, 16, 24, 32, 48)
"""Widths, in pixels, of strokes."""


def wide_holes(size: tuple[int, int], random: np.random.Generator, people: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return a box and a silhouette somewhere in a picture of `size` (height, width), each bool of that size.

    The sides of the box, and the longer one of the silhouette, are within SIDES.
    """
    low, high = SIDES
    shapes: list[np.ndarray] = [np.ones(tuple(random.integers(low, high + 1, 2)), bool)]
    if people:
        shape = people[int(random.integers(len(people)))]
        rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
        shape = shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        factor = random.integers(low, high + 1) / max(shape.shape)
        sides = [max(1, round(side * factor)) for side in reversed(shape.shape)]
        shapes.append(cv2.resize(shape.astype(np.uint8), sides, interpolation=cv2.INTER_NEAREST) > 0)
    found = []
    for shape in shapes:
        tall, wide = np.shape(shape)
        top, left = int(random.integers(0, size[0] - tall + 1)), int(random.integers(0, size[1] - wide + 1))
        missing = np.zeros(size, bool)
        missing[top : top + tall, left : left + wide] = shape
        found.append(missing)
    return found


def wide_tables(
    methods: Mapping[str, Fill], people: Sequence[np.ndarray], packs: Packs, command: str, every: int = 1
) -> list[ResultTable]:
    """Return how the wide holes look that `methods` fill in every so many pictures of Kodak24."""
    report_progress(command)
    pictures = packs.pictures(FOLDER)[::every]
    damaged = []
    for number, picture in enumerate(pictures):
        holes_of_picture = wide_holes((picture.shape[0], picture.shape[1]), np.random.default_rng(number), people)
        damaged += [(picture, missing) for missing in holes_of_picture]
    title = f"Kodak24, {len(damaged)} boxes and silhouettes with sides of {SIDES[0]} to {SIDES[1]} px"
    return [_compare(title, {"(the picture itself)": None, **methods}, damaged, packs, command)]


def width_tables(
    methods: Mapping[str, Fill], packs: Packs, command: str, widths: Sequence[int] = WIDTHS, every: int = 1
) -> list[ResultTable]:
    """Return how strokes of some `widths` (pixels) look that `methods` fill in every so many pictures of Kodak24."""
    report_progress(command)
    tables_by_width = []
    for width in widths:
        damaged = []
        for number, picture in enumerate(packs.pictures(FOLDER)[::every]):
            random, missing = np.random.default_rng(number), np.zeros(picture.shape[:2], np.uint8)
            corner = random.uniform(0, np.array(picture.shape[1::-1]) - STROKE)
            ends = corner + random.uniform(0, STROKE, (3, 2))
            cv2.polylines(missing, [ends.round().astype(np.int32)], False, 1, width)
            damaged.append((picture, missing.view(bool)))
        tables_by_width.append(_compare(f"Kodak24, strokes of {width} px", methods, damaged, packs, command))
    return tables_by_width


def _compare(
    title: str,
    methods: Mapping[str, Fill | None],
    damaged: Sequence[tuple[np.ndarray, np.ndarray]],
    packs: Packs,
    command: str,
) -> ResultTable:
    """Return feature distance, detail and PSNR of `methods` for pictures with what is missing; None is the truth."""
    distance = FeatureDistance(packs)
    rows: list[list[str | float]] = []
    for name, fill in methods.items():
        figures = []
        for picture, missing in damaged:
            found = picture if fill is None else fill(np.where(missing[..., None], np.uint8(0), picture), missing)
            score = 0.0 if fill is None else in_hole_psnr(found, picture, missing)
            features = 0.0 if fill is None else distance(found, picture, missing)
            figures.append((features, np.log(detail(found, missing)), score))
        mean = np.mean(figures, axis=0)
        rows.append([name, float(mean[0]), float(np.exp(mean[1])), "" if fill is None else float(mean[2])])
    note = "Feature distance: 0 is the truth. Detail: 1 is as much as around the hole, geometric mean."
    return ResultTable(title, command, ["", "feature distance", "detail", "PSNR (dB)"], rows, note)
