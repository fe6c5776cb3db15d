"""Makes the pictures of docs/removals.md: `python -m scripts.removals [URL]`, with a running service.

Each row shows the picture with its mask, what `method=neural` makes of it, and what `method=auto` does. The pictures
are scikit-image's, which are in the public domain or under CC0, or drawn here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "docs/images"
SIDE = 256
PER_SHEET = 4
Pixels = NDArray[Any]
Points = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Removal:
    """A picture, uint8 or uint16 (height, width[, 3]), and the parts of it to remove.

    `lines` are (width, points), `areas` polygons; points are (x, y). `corner` is the left and top of what is shown.
    """

    name: str
    make: Callable[[], Any]
    corner: tuple[int, int]
    lines: tuple[tuple[int, Points], ...] = ()
    areas: tuple[Points, ...] = ()

    def mask(self) -> NDArray[np.uint8]:
        """Return uint8 (height, width), 255 where to fill."""
        mask = np.zeros(self.make().shape[:2], np.uint8)
        for width, points in self.lines:
            cv2.polylines(mask, [np.array(points, np.int32)], False, 255, width)
        for points in self.areas:
            cv2.fillPoly(mask, [np.array(points, np.int32)], 255)
        return mask


def box(left: int, top: int, right: int, bottom: int) -> Points:
    """Return the corners of a box."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse(x: int, y: int, wide: int, tall: int) -> Points:
    """Return a polygon around (x, y) with the radii `wide` and `tall`."""
    turns: list[float] = np.linspace(0, 2 * np.pi, 48, endpoint=False).tolist()
    return [(round(x + wide * math.cos(turn)), round(y + tall * math.sin(turn))) for turn in turns]


def draw_stripes() -> Pixels:
    """Return colored stripes with paper grain, uint8 (300, 300, 3)."""
    rows, columns = np.mgrid[:300, :300]
    dark = ((rows + 2 * columns) // 26 % 2)[..., None]
    colors = np.where(dark, np.array([60, 80, 130]), np.array([214, 198, 160]))
    return np.asarray(np.clip(colors + np.random.default_rng(0).normal(0, 5, (300, 300, 1)), 0, 255), np.uint8)


def draw_screen_tone() -> Pixels:
    """Return a halftone of a slope and two outlines, as in printed comics: uint8 (300, 300)."""
    rows, columns = np.mgrid[:300, :300].astype(float)
    dots = np.cos((rows + columns) * np.pi / 6) * np.cos((rows - columns) * np.pi / 6)
    page = np.where(dots > (columns - 150) / 260, 245, 40).astype(np.uint8)
    cv2.line(page, (0, 80), (299, 140), 0, 4, cv2.LINE_AA)
    cv2.ellipse(page, (110, 330), (150, 130), 0, 180, 360, 0, 4, cv2.LINE_AA)
    return page


def darken() -> Pixels:
    """Return gravel in 16 bit, dark and with a fine grain: uint16 (512, 512)."""
    gravel = skimage.data.gravel().astype(float) * 24
    return np.asarray(np.clip(gravel + np.random.default_rng(0).normal(0, 200, gravel.shape), 0, 65535), np.uint16)


REMOVALS = (
    Removal("a rocket in the evening sky", skimage.data.rocket, (196, 150), areas=(box(290, 112, 360, 426),)),
    Removal("a tower at the horizon", skimage.data.rocket, (60, 171), areas=(box(160, 112, 214, 426),)),
    Removal("a model beside a face", skimage.data.astronaut, (256, 30), areas=(box(346, 0, 474, 292),)),
    Removal("a badge on cloth", skimage.data.astronaut, (40, 256), areas=(ellipse(171, 385, 42, 42),)),
    Removal("a building in the skyline", skimage.data.camera, (256, 40), areas=(box(402, 108, 440, 206),)),
    Removal(
        "a tripod on grass",
        skimage.data.camera,
        (200, 256),
        lines=((24, [(293, 262), (293, 511)]), (24, [(290, 320), (235, 511)]), (24, [(296, 320), (402, 511)])),
    ),
    Removal("wood", skimage.data.coffee, (344, 144), areas=(box(505, 260, 585, 350),)),
    Removal(
        "a spoon on a saucer",
        skimage.data.coffee,
        (240, 70),
        ((30, [(410, 84), (378, 230)]),),
        (ellipse(366, 276, 50, 55),),
    ),
    Removal(
        "galaxies", lambda: skimage.data.hubble_deep_field()[:400, :600], (160, 0), areas=(ellipse(291, 107, 34, 34),)
    ),
    Removal("bricks", skimage.data.brick, (120, 120), areas=(ellipse(250, 250, 70, 60),)),
    Removal("grass", skimage.data.grass, (120, 120), areas=(ellipse(250, 250, 80, 60),)),
    Removal("gravel, dark, 16 bit", darken, (120, 120), areas=(ellipse(250, 250, 70, 70),)),
    Removal("stripes", draw_stripes, (22, 22), areas=(ellipse(150, 150, 60, 60),)),
    Removal("screen tone", draw_screen_tone, (22, 22), areas=(ellipse(150, 150, 60, 60),)),
    Removal("words of a page", skimage.data.page, (60, 0), areas=(box(140, 60, 260, 100),)),
    Removal("an eye", skimage.data.chelsea, (60, 20), areas=(ellipse(172, 110, 46, 42),)),
)


def encode(pixels: Pixels) -> bytes:
    """Return `pixels` as PNG."""
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(".png", np.ascontiguousarray(bgr))[1])


def fill(url: str, pixels: Pixels, mask: NDArray[np.uint8], method: str) -> Pixels:
    """Return the answer of the service."""
    files = {"image": ("a.png", encode(pixels)), "mask": ("mask.png", encode(mask))}
    answer = httpx.post(f"{url}/inpaint", files=files, data={"method": method, "format": "png"}, timeout=300)
    answer.raise_for_status()
    print(answer.headers["X-Applied"])
    decoded = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return np.asarray(decoded[..., ::-1] if decoded.ndim == 3 else decoded)


def show(pixels: Pixels, corner: tuple[int, int], mask: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Return the shown part, uint8 (SIDE, SIDE, 3), with the mask in a bright color; 16 bit is stretched."""
    if pixels.dtype == np.uint16:
        pixels = np.clip(pixels / np.percentile(pixels, 99.5) * 255, 0, 255).astype(np.uint8)
    color = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    if mask is not None:
        color = np.where(mask[..., None] > 0, np.array([255, 0, 255], np.uint8), color)
    part = color[corner[1] : corner[1] + SIDE, corner[0] : corner[0] + SIDE, :3]
    missing = [(0, SIDE - side) for side in part.shape[:2]]
    return np.asarray(np.pad(part, [*missing, (0, 0)], constant_values=255), np.uint8)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    rows = []
    for removal in REMOVALS:
        pixels, mask = removal.make(), removal.mask()
        filled = [show(fill(url, pixels, mask, method), removal.corner) for method in ("neural", "auto")]
        rows.append(np.concatenate([show(pixels, removal.corner, mask), *filled], axis=1))
    for number in range(0, len(rows), PER_SHEET):
        sheet = np.concatenate(rows[number : number + PER_SHEET])
        file = FOLDER / f"removals-{number // PER_SHEET + 1}.jpg"
        Image.fromarray(sheet).save(file, quality=85, optimize=True)


if __name__ == "__main__":
    main()
