"""Makes the pictures of docs/styles.md: `python -m scripts.style_sheets [URL]`, with a running service.

A sheet for each of three photographs, which are scikit-image's (CC0, public domain). Each row is a preset: the
photograph at 256, 1024 and 4000 pixels in that style, all shown at one size, and the middle of the largest.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from scripts.removals import encode

FOLDER = Path(__file__).resolve().parent.parent / "docs/images"
SIDES = (256, 1024, 4000)
SHOWN = 200
Pixels = NDArray[Any]
PHOTOGRAPHS: dict[str, Callable[[], Pixels]] = {
    "portrait": lambda: skimage.data.astronaut()[:400, 30:430],
    "landscape": lambda: skimage.data.rocket()[:, 110:537],
    "still-life": lambda: skimage.data.coffee()[:, 100:500],
}


def apply_style(url: str, style: str, pixels: Pixels) -> Pixels:
    """Return `pixels`, uint8 (height, width, 3), in the style."""
    files, fields = {"image": ("a.png", encode(pixels))}, {"style": style, "format": "png"}
    answer = httpx.post(f"{url}/stylize", files=files, data=fields, timeout=600)
    answer.raise_for_status()
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def resize(pixels: Pixels, side: int) -> Pixels:
    """Return `pixels` with `side` pixels a side."""
    how = cv2.INTER_AREA if side < len(pixels) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=how))


def draw_row(photograph: Pixels, paint: Callable[[Pixels], Pixels]) -> Pixels:
    """Return uint8 (SHOWN, (SIDES + 1) * SHOWN, 3): the photograph painted at each of SIDES, and the middle of it."""
    painted = [paint(resize(photograph, side)) for side in SIDES]
    middle = (SIDES[-1] - SHOWN) // 2
    part = painted[-1][middle : middle + SHOWN, middle : middle + SHOWN]
    return np.concatenate([*(resize(one, SHOWN) for one in painted), part], axis=1)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    names = [style["name"] for style in httpx.get(f"{url}/styles", timeout=60).json()["styles"]]
    for title, load in PHOTOGRAPHS.items():
        photograph = load()
        rows = [draw_row(photograph, lambda pixels: pixels)]
        rows += [draw_row(photograph, partial(apply_style, url, name)) for name in names]
        half = -(-len(rows) // 2)
        columns = [np.concatenate(rows[:half]), np.concatenate(rows[half:])]
        short = len(columns[0]) - len(columns[1])
        columns[1] = np.pad(columns[1], [(0, short), (0, 0), (0, 0)], constant_values=255)
        file = FOLDER / f"styles-{title}.jpg"
        Image.fromarray(np.concatenate(columns, axis=1)).save(file, quality=82, optimize=True)


if __name__ == "__main__":
    main()
