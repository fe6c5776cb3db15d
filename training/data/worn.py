"""Small pictures as people have them: blurred, noisy, reduced by any program, saved as JPEG, some of it twice.

After Wang et al. 2021 (Real-ESRGAN, arXiv 2107.10833) and Zhang et al. 2021 (BSRGAN, arXiv 2103.14006): what happens
to a picture happens in a random order and number, before and after it is made small.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from training.data import camera, reductions

CLEAN = 0.08
"""The share of pictures that are only reduced."""


def wear(picture: np.ndarray, scale: int, random: np.random.Generator) -> np.ndarray:
    """Return `picture`, uint8 (height, width, 3), worn and reduced `scale` times. Gray pictures stay gray."""
    gray = bool(np.array_equal(picture[..., 0], picture[..., 1]) and np.array_equal(picture[..., 0], picture[..., 2]))
    if random.random() < CLEAN:
        return _reduce(picture, scale, random)
    large = _apply(picture, _choose(random, {"blur": 0.5, "noise": 0.15, "resize": 0.3, "jpeg": 0.2}), random, scale)
    small = _reduce(large, scale, random)
    if random.random() < 0.4:
        drawn = camera.draw(random)
        weak = drawn._replace(
            read=0.4 * drawn.read, shot=0.16 * drawn.shot, gray=gray
        )  # what people enlarge is not all noise
        return camera.take(small, weak, random)
    chosen = _choose(random, {"blur": 0.2, "sharpen": 0.1, "noise": 0.5, "jpeg": 0.75})
    if random.random() < 0.2:
        chosen.append("jpeg")
    worn = _apply(small, chosen, random, 1)
    return camera.to_gray(worn) if gray else worn


def _choose(random: np.random.Generator, chances: dict[str, float]) -> list[str]:
    """Return what happens, in a random order."""
    chosen = [name for name, chance in chances.items() if random.random() < chance]
    return [chosen[place] for place in random.permutation(len(chosen))]


def _apply(picture: np.ndarray, names: list[str], random: np.random.Generator, scale: int) -> np.ndarray:
    """Return `picture` after what `names` list. Sizes are in pixels of the small picture, `scale` times these here."""
    steps: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "blur": lambda x: _blur(x, random, scale),
        "noise": lambda x: _noise(x, random),
        "resize": lambda x: _resize_twice(x, random),
        "jpeg": lambda x: _jpeg(x, random),
        "sharpen": lambda x: _sharpen(x, random),
    }
    for name in names:
        picture = steps[name](picture)
    return picture


def _reduce(picture: np.ndarray, scale: int, random: np.random.Generator) -> np.ndarray:
    kind = random.random()
    if kind < 0.35:
        return reductions.bicubic(picture, scale)
    return reductions.draw(random, filtered=kind < 0.85)(picture, scale)


def _blur(picture: np.ndarray, random: np.random.Generator, scale: int) -> np.ndarray:
    """Return `picture` out of focus or moved, by at most 0.8 small pixels."""
    across, along = np.exp(random.uniform(np.log(0.1), np.log(0.8), 2)) * scale
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigmaX=float(across), sigmaY=float(along)))


def _sharpen(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    soft = cv2.GaussianBlur(picture, (0, 0), float(random.uniform(0.6, 1.2)))
    return np.asarray(cv2.addWeighted(picture, 1 + (amount := float(random.uniform(0.3, 1.2))), soft, -amount, 0))


def _noise(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `picture` with white or smeared noise, of one color or of all, as strong in the dark or rising."""
    sigma = 25 * random.random() ** 1.5 + 1
    noise = random.standard_normal((*picture.shape[:2], 3 if random.random() < 0.6 else 1), np.float32)
    if random.random() < 0.4:
        soft = cv2.GaussianBlur(noise, (0, 0), float(random.uniform(0.3, 1.0)))
        noise = np.asarray(soft, np.float32).reshape(noise.shape)
        noise /= noise.std() + 1e-6
    rising = np.sqrt(picture.astype(np.float32) / 128) if random.random() < 0.4 else np.float32(1)
    return np.clip(np.rint(picture + sigma * rising * noise), 0, 255).astype(np.uint8)


def _resize_twice(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `picture` made smaller or larger and back, as it is when it is passed on."""
    factor = float(random.uniform(0.5, 1.3))
    how = [cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC][int(random.integers(3))]
    height, width = picture.shape[:2]
    other = cv2.resize(picture, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=how)
    return np.asarray(cv2.resize(other, (width, height), interpolation=cv2.INTER_CUBIC))


def _jpeg(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `picture` after a JPEG encoder, its blocks beginning anywhere."""
    top, left = (int(n) for n in random.integers(0, 8, 2)) if random.random() < 0.3 else (0, 0)
    padded = cv2.copyMakeBorder(picture, top, 0, left, 0, cv2.BORDER_REFLECT)
    return camera.encode(padded, int(random.integers(30, 96)), halved=bool(random.random() < 0.7))[top:, left:]
