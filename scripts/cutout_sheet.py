"""Draws what `/cutout` makes of pictures: `python -m scripts.cutout_sheet URL [--folder FOLDER] [--to FILE]`.

A row for each picture: the picture, its cutout on a checkerboard, on green and before another photograph, and a part of
an edge at full size. By default twelve pictures that scikit-image carries or that are drawn here, and the sheet of
docs/comparison.md; with `--folder`, those of a folder, to be looked at.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageOps

SHEET = Path(__file__).resolve().parent.parent / "docs/images/cutouts.jpg"
SIDE = 200
GREEN = (0, 200, 80)
Pixels = NDArray[Any]


def shaded(size: tuple[int, int], low: float, high: float) -> Pixels:
    """Return a gray background that gets lighter downwards, uint8 (height, width, 3)."""
    column = np.linspace(low, high, size[0])[:, None, None]
    return np.broadcast_to(column, (*size, 3)).astype(np.uint8).copy()


def sphere(low: float, high: float, back: tuple[float, float]) -> Pixels:
    """Return a ball with a soft shadow, of nearly the color of what is behind it."""
    picture = shaded((400, 500), *back).astype(np.float32)
    shadow = np.zeros((400, 500), np.float32)
    cv2.ellipse(shadow, (260, 315), (130, 22), 0, 0, 360, 1.0, -1)
    picture *= 1 - 0.25 * cv2.GaussianBlur(shadow, (0, 0), 12)[..., None]
    rows, columns = np.mgrid[:400, :500]
    inside = np.clip(120.5 - np.hypot(rows - 200, columns - 250), 0, 1)[..., None]
    light = 1 - np.hypot(rows - 150, columns - 210) / 240
    ball = (low + (high - low) * np.clip(light, 0, 1))[..., None]
    return np.asarray(np.rint(picture * (1 - inside) + ball * inside), np.uint8)


def wheel() -> Pixels:
    """Return a wheel with thin spokes before a wall."""
    picture = shaded((480, 480), 150, 190)
    picture[..., 2] = picture[..., 2] * 0.8
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        end = round(240 + 170 * np.cos(angle)), round(240 + 170 * np.sin(angle))
        cv2.line(picture, (240, 240), end, (60, 60, 66), 2, cv2.LINE_AA)
    cv2.circle(picture, (240, 240), 175, (25, 25, 28), 14, cv2.LINE_AA)
    cv2.circle(picture, (240, 240), 22, (90, 90, 96), -1, cv2.LINE_AA)
    return picture


def glass() -> Pixels:
    """Return a drinking glass that shows the wood behind it."""
    picture = np.asarray(skimage.data.coffee()[0:400, 0:150])
    picture = cv2.resize(picture, (420, 480), interpolation=cv2.INTER_CUBIC)
    shape = np.array([[130, 80], [290, 80], [265, 410], [155, 410]], np.int32)
    body = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(body, [shape], 255, cv2.LINE_AA)
    seen = cv2.GaussianBlur(picture, (0, 0), 3).astype(np.float32) * 0.82 + 40
    weight = body[..., None].astype(np.float32) / 255
    result: Pixels = np.rint(picture * (1 - weight) + np.clip(seen, 0, 255) * weight).astype(np.uint8)
    cv2.polylines(result, [shape], True, (225, 230, 235), 3, cv2.LINE_AA)
    cv2.line(result, (160, 110), (180, 380), (250, 250, 250), 6, cv2.LINE_AA)
    return result


def product() -> Pixels:
    """Return a bottle with a label on a light ground."""
    picture = shaded((500, 400), 225, 245)
    cv2.rectangle(picture, (140, 190), (260, 450), (30, 110, 60), -1, cv2.LINE_AA)
    cv2.ellipse(picture, (200, 190), (60, 50), 0, 180, 360, (30, 110, 60), -1, cv2.LINE_AA)
    cv2.rectangle(picture, (178, 60), (222, 160), (30, 110, 60), -1, cv2.LINE_AA)
    cv2.rectangle(picture, (174, 50), (226, 80), (160, 40, 40), -1, cv2.LINE_AA)
    cv2.rectangle(picture, (140, 260), (260, 380), (235, 225, 200), -1, cv2.LINE_AA)
    cv2.putText(picture, "TEA", (158, 335), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (60, 40, 20), 3, cv2.LINE_AA)
    return picture


def drawing() -> Pixels:
    """Return a line drawing of a bird, filled with flat colors."""
    picture = np.full((400, 480, 3), (250, 246, 235), np.uint8)
    for color, thickness in (((90, 150, 220), -1), ((30, 30, 40), 5)):
        cv2.ellipse(picture, (240, 220), (120, 80), 10, 0, 360, color, thickness, cv2.LINE_AA)
        cv2.circle(picture, (350, 150), 50, color, thickness, cv2.LINE_AA)
        tail = np.array([[130, 210], [50, 150], [60, 250]], np.int32)
        if thickness < 0:
            cv2.fillPoly(picture, [tail], color, cv2.LINE_AA)
        else:
            cv2.polylines(picture, [tail], True, color, thickness, cv2.LINE_AA)
    cv2.circle(picture, (365, 140), 8, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.fillPoly(picture, [np.array([[395, 150], [440, 162], [396, 172]], np.int32)], (240, 170, 40), cv2.LINE_AA)
    for foot in (220, 260):
        cv2.line(picture, (foot, 300), (foot, 350), (30, 30, 40), 4, cv2.LINE_AA)
    return picture


def group() -> Pixels:
    """Return the bottle three times, in three sizes."""
    picture = shaded((500, 700), 200, 235)
    bottle = product()
    for left, side, lift in ((30, 0.7, 150), (220, 0.95, 20), (470, 0.6, 200)):
        small = cv2.resize(bottle[40:460, 130:270], None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
        part = picture[lift : lift + small.shape[0], left : left + small.shape[1]]
        taken = np.abs(small[: part.shape[0]].astype(int) - 236).max(axis=-1) > 24
        part[taken] = small[: part.shape[0]][taken]
    return picture


def dark() -> Pixels:
    """Return the astronaut in low light, with noise."""
    picture = skimage.data.astronaut().astype(np.float32) * 0.14 + 4
    noisy = picture + np.random.default_rng(0).normal(0, 4, picture.shape)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)


def large() -> Pixels:
    """Return the cat at 24 megapixels."""
    return np.asarray(cv2.resize(skimage.data.chelsea(), (6000, 4000), interpolation=cv2.INTER_CUBIC))


PICTURES: dict[str, Callable[[], Pixels]] = {
    "person, hair": skimage.data.astronaut,
    "animal": skimage.data.chelsea,
    "things on a table": skimage.data.coffee,
    "rocket": skimage.data.rocket,
    "white on white": lambda: sphere(190, 255, (240, 225)),
    "black on black": lambda: sphere(8, 60, (18, 30)),
    "glass": glass,
    "spokes": wheel,
    "product, group": group,
    "drawing": drawing,
    "low light": dark,
    "24 megapixels": large,
}


def rows(pictures: Iterator[Pixels], url: str, backdrop: Pixels) -> Iterator[Pixels]:
    """Yield the row of each picture."""
    for picture in pictures:
        answer = httpx.post(
            url + "/cutout", files={"image": ("a.png", _png(picture))}, data={"format": "png"}, timeout=600
        )
        answer.raise_for_status()
        cut = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
        height, width = cut.shape[:2]
        squares = (np.indices((height, width)) // max(1, max(height, width) // 32)).sum(axis=0) % 2
        behind = [
            np.where(squares[..., None] == 1, 255, 205).repeat(3, axis=-1),
            np.broadcast_to(GREEN, (height, width, 3)),
            np.asarray(ImageOps.fit(Image.fromarray(backdrop), (width, height))),
        ]
        shown = [_place(cut, one) for one in behind]
        edge = _edge(cut[..., 3])
        yield np.concatenate([*(_fit(one) for one in (picture, *shown)), shown[1][edge]], axis=1)


def _place(cut: Pixels, behind: NDArray[np.generic]) -> Pixels:
    weight = cut[..., 3:].astype(np.float32) / 255
    return np.rint(cut[..., :3] * weight + np.asarray(behind, np.float32) * (1 - weight)).astype(np.uint8)


def _edge(alpha: Pixels) -> tuple[slice, slice]:
    """Return the square of SIDE pixels around the topmost edge, within the picture."""
    places = np.argwhere((alpha > 20) & (alpha < 235))
    top, left = places[len(places) // 8] if len(places) else (0, 0)
    begin = [max(0, min(int(at) - SIDE // 2, size - SIDE)) for at, size in zip((top, left), alpha.shape, strict=True)]
    return slice(begin[0], begin[0] + SIDE), slice(begin[1], begin[1] + SIDE)


def _fit(picture: Pixels) -> Pixels:
    return np.asarray(ImageOps.pad(Image.fromarray(picture), (SIDE, SIDE), color=(255, 255, 255)))


def _png(picture: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()


def main() -> None:
    """Write the sheet, two columns of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--folder", type=Path, help="a folder of pictures, instead of those of the docs")
    parser.add_argument("--to", type=Path, default=SHEET, help="the sheet (default: that of the docs)")
    options = parser.parse_args()
    if options.folder:
        files = sorted(file for file in options.folder.iterdir() if file.suffix in (".webp", ".png", ".jpg"))
        pictures = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    else:
        pictures = (make() for make in PICTURES.values())
    drawn = list(rows(iter(pictures), options.url.rstrip("/"), skimage.data.rocket()[:, 106:533]))
    drawn += [np.full_like(drawn[0], 255)] * (len(drawn) % 2)
    half = len(drawn) // 2
    columns = [np.concatenate(part) for part in (drawn[:half], drawn[half:])]
    gap = np.full((len(columns[0]), 12, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([columns[0], gap, columns[1]], axis=1)).save(options.to, quality=82, optimize=True)


if __name__ == "__main__":
    main()
