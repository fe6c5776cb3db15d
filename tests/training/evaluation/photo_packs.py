"""Packs of pictures made by code, for the tests of the tables of photo models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from training.evaluation.tables import ResultTable


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (20, 28), *, gray: bool = False) -> None:
    """Write smooth pictures of medium brightness, all different."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for place, name in enumerate(names):
        waves = [np.sin(rows / (3 + place % 5) + k) + np.cos(columns / (4 + place % 3) - k) for k in range(3)]
        picture = (127 + 30 * np.stack(waves, axis=-1)).astype(np.uint8)
        Image.fromarray(picture[..., 0] if gray else picture).save(folder / name)


def cells(tables: list[ResultTable], title: str) -> dict[str, list[float]]:
    """Return the figures of the table whose title begins so, by row."""
    table = next(table for table in tables if table.title.startswith(title))
    return {str(row[0]): [float(cell) for cell in row[1:] if cell != ""] for row in table.rows}
