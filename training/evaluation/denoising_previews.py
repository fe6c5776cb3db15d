"""Preview grids of a denoiser at full size: real pictures, and pictures that denoisers spoil.

To be looked at pixel by pixel before a model is published: eyes, hair, cloth and print are still there, flat places are
free of blotches, and nothing repeats every 2 or 8 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np

from training.data import camera
from training.data.packs import Packs
from training.evaluation import denoising, previews
from training.evaluation.photos import eight_bit

if TYPE_CHECKING:
    import keras

SIDE = 320
"""Pixels a side of the crops: four beside each other fit on a screen."""
NIGHT = camera.Camera(
    read=0.02,
    shot=0.03**2,
    gains=(2.0, 1.0, 1.6),
    gamma=2.2,
    demosaic=True,
    smooth=1.0,
    sharpen=0.5,
    scale=1.5,
    qualities=(85,),
)
"""A phone's camera at night."""


def preview_grids(networks: Mapping[str, keras.Model], packs: Packs) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8 RGB): crops of a picture in a column, and beside each what became of it.

    The columns are the input, `auto`, OpenCV's non-local means and `denoise` without limit, both told the estimated σ,
    and the clean picture where there is one.
    """
    for name, picture in denoising.load_real(packs).items():
        yield name, _compare(networks, name, picture)
    for name, (picture, clean) in hard_cases().items():
        yield name, _compare(networks, name, picture, clean)


def hard_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (spoiled, clean), uint8 RGB, by name: night, very strong noise, stars, pixel art and small print."""
    import skimage.data  # not installed on the training machine

    astronaut, coffee = skimage.data.astronaut(), skimage.data.coffee()
    page = _in_color(skimage.data.page())
    random = np.random.default_rng(0)
    stars, art, text = draw_stars(), draw_pixel_art(), draw_small_print()
    cases = {f"night-{name}": (picture, NIGHT) for name, picture in (("astronaut", astronaut), ("page", page))}
    cases["night-gray-coffee"] = camera.to_gray(coffee), NIGHT._replace(gray=True)
    cases["night-print"] = text, NIGHT
    found = {name: (camera.take(clean, drawn, random), clean) for name, (clean, drawn) in cases.items()}
    found |= {f"astronaut-sigma-{sigma}": (_noisy(astronaut, sigma), astronaut) for sigma in (75, 100)}
    gray = camera.to_gray(coffee)
    found["gray-coffee-sigma-100"] = _noisy(gray, 100, channels=1), gray
    found |= {"stars": (stars, stars), "stars-sigma-10": (_noisy(stars, 10), stars)}
    found |= {"pixel-art": (art, art), "pixel-art-sigma-10": (_noisy(art, 10), art), "print": (text, text)}
    return found


def draw_stars(size: int = SIDE) -> np.ndarray:
    """Return a night sky, uint8 (size, size, 3): 200 stars of a pixel and 100 somewhat larger ones."""
    random = np.random.default_rng(1)
    sky = np.full((size, size, 3), (4, 5, 12), np.float32)
    for number in range(300):
        row, column = random.integers(0, size, 2)
        star = np.zeros((size, size, 3), np.float32)
        star[row, column] = random.uniform(60, 250) * random.uniform(0.8, 1.0, 3)
        if number >= 200:
            width = random.uniform(0.5, 1.2)
            star = 4 * width * cv2.GaussianBlur(star, (0, 0), width)
        sky += star
    return eight_bit(sky)


def draw_pixel_art(size: int = SIDE) -> np.ndarray:
    """Return sprites on a ground of one color, uint8 (size, size, 3): each of their pixels is 1, 2 or 4 pixels wide.

    A sprite is 16 pixels wide, alike on both sides, outlined, and has three colors in patches of a few pixels.
    """
    random = np.random.default_rng(2)
    art = np.full((size, size, 3), (92, 148, 252), np.uint8)
    for top in range(0, size - 63, 64):
        for left in range(0, size - 63, 64):
            factor = int(random.choice([1, 2, 4]))
            colors = np.array([(92, 148, 252), (24, 16, 32), *random.integers(0, 256, (3, 3))], np.uint8)
            for row in range(top, top + 64, 16 * factor):
                for column in range(left, left + 64, 16 * factor):
                    sprite = previews.enlarge(colors[_draw_sprite(random)], factor)
                    art[row : row + 16 * factor, column : column + 16 * factor] = sprite
    return art


def _draw_sprite(random: np.random.Generator) -> np.ndarray:
    """Return which color each pixel has, (16, 16): 0 the ground, 1 the outline, 2 to 4 the inside."""
    patches = cv2.resize(random.random((5, 3, 3)).astype(np.float32), (8, 16), interpolation=cv2.INTER_LINEAR)
    rows, columns = np.mgrid[:16, :8]
    body = (np.hypot((rows - 7.5) / 7, (columns - 7.5) / 6) + 0.6 * (patches[..., 0] - 0.5) < 1).astype(np.uint8)
    whole = np.hstack([body, body[:, ::-1]])
    inside = cv2.erode(whole, np.ones((3, 3), np.uint8))
    kinds = np.argmax(patches, axis=-1) + 2
    return np.where(inside > 0, np.hstack([kinds, kinds[:, ::-1]]), whole)


def draw_small_print(size: int = SIDE) -> np.ndarray:
    """Return lines of small letters, dark on paper, uint8 (size, size, 3)."""
    paper = np.full((size, size, 3), (238, 232, 220), np.uint8)
    line = "Sphinx of black quartz, judge my vow 0123456789 (8) & 6/9 iIl1 rn m"
    for number, row in enumerate(range(14, size, 16)):
        scale = 0.3 + 0.02 * (number % 6)
        cv2.putText(
            paper, line[number:] + line, (4, row), cv2.FONT_HERSHEY_SIMPLEX, scale, (40, 36, 44), 1, cv2.LINE_AA
        )
    return paper


def _compare(
    networks: Mapping[str, keras.Model], name: str, picture: np.ndarray, clean: np.ndarray | None = None
) -> np.ndarray:
    image = denoising.as_image(picture)
    noise = denoising.estimate_noise(networks, image)
    columns = {
        "input": image,
        "auto": denoising.remove_noise(networks, image, noise),
        "non-local means": denoising.as_image(denoising.non_local_means(picture, noise.sigma)),
        "denoise alone": denoising.run_network(networks["denoise"], image, noise.level),
    }
    if clean is not None:
        columns["clean"] = denoising.as_image(clean)
    drawn = previews.grid([[column[crop] for column in columns.values()] for crop in crops(picture)])
    kind = "correlated" if noise.correlated else "white"
    title = f"{name}: sigma {noise.sigma:.1f}, correlation {noise.correlation:.2f} ({kind}); " + " | ".join(columns)
    label = np.full((20, drawn.shape[1], 3), 255, np.uint8)
    cv2.putText(label, title, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([label, drawn])


def crops(picture: np.ndarray) -> list[tuple[slice, slice]]:
    """Return where the middle of `picture` is, and where its busiest and its flattest part, unless it is small."""
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 3)
    steepness = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)).mean(axis=-1)
    height, width = (min(SIDE, side) for side in picture.shape[:2])
    below, beside = (side - shown for side, shown in zip(picture.shape[:2], (height, width), strict=True))
    places = [(row, column) for row in range(0, below + 1, 32) for column in range(0, beside + 1, 32)]
    places.sort(key=lambda place: float(steepness[place[0] : place[0] + height, place[1] : place[1] + width].mean()))
    chosen: list[tuple[int, int]] = []
    for row, column in [(below // 2, beside // 2), places[-1], places[0]]:
        if all(abs(row - other[0]) > height // 4 or abs(column - other[1]) > width // 4 for other in chosen):
            chosen.append((row, column))
    return [(slice(row, row + height), slice(column, column + width)) for row, column in chosen]


def _noisy(picture: np.ndarray, sigma: float, channels: int = 3) -> np.ndarray:
    noise = np.random.default_rng(3).normal(0, sigma, (*picture.shape[:2], channels))
    return eight_bit(picture + noise)


def _in_color(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[..., None], 3, axis=-1)
