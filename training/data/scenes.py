"""Photographs with a class for every pixel, and random views of them as batches on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from training.data.packs import Packs, WrongPack

VOID = 255
"""The id of pixels that nobody labelled; they count nowhere."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`picture` uint8 (height, width, 3), `labels` uint8 (height, width), ids of classes or VOID."""

    picture: np.ndarray
    labels: np.ndarray


def scenes(packs: Packs, folder: str, *, labels: str = "labels", keep: slice = slice(None)) -> list[Scene]:
    """Return the pictures of `folder`/images with those of `folder`/`labels`, sorted by name.

    `labels` hold ids (palette files), or are black and white (`masks`): white is class 1. Raises MissingPack, and
    WrongPack where a picture and its labels do not belong together.
    """
    files, truths = packs.files(f"{folder}/images")[keep], packs.files(f"{folder}/{labels}")[keep]
    if [file.stem for file in files] != [file.stem for file in truths]:
        raise WrongPack(f"{folder}: images and {labels} must have files with the same names")
    found = []
    for picture, truth in zip(packs.pictures(f"{folder}/images", keep), truths, strict=True):
        with Image.open(truth) as image:
            ids = np.asarray(image if image.mode in ("P", "L") else image.convert("L"))
        if labels == "masks":
            ids = (ids > 0).astype(np.uint8)
        if ids.shape != picture.shape[:2]:
            raise WrongPack(f"{truth} has the size {ids.shape}, but its picture has {picture.shape[:2]}")
        found.append(Scene(picture, ids))
    return found


class Views:
    """Random views: `views(index)` -> (pictures uint8 (batch, h, w, 3), labels uint8 (batch, h, w)).

    The same for the same index. A scene is drawn, scaled by a random factor within `scales`, cut at random to `size`
    (gray and VOID where it ends), mirrored half of the time, turned by a multiple of 90 degrees where `turn` says
    so, and varied in brightness, contrast and color.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        size: tuple[int, int],
        batch: int,
        seed: int,
        *,
        scales: tuple[float, float],
        turn: bool = False,
    ) -> None:
        self.scenes, self.size, self.batch, self.seed, self.scales, self.turn = scenes, size, batch, seed, scales, turn

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([self.seed, index])
        views = [self._view(self.scenes[i], random) for i in random.integers(len(self.scenes), size=self.batch)]
        return np.stack([view.picture for view in views]), np.stack([view.labels for view in views])

    def _view(self, scene: Scene, random: np.random.Generator) -> Scene:
        picture, labels = scene.picture, scene.labels
        if self.turn:
            turns = int(random.integers(4))
            picture, labels = np.rot90(picture, turns), np.rot90(labels, turns)
        factor = float(np.exp(random.uniform(*np.log(self.scales))))
        # A little wider or narrower, too: a camera's distance and a crop change both sides otherwise.
        sides = [max(16, round(side * factor * random.uniform(0.9, 1.1))) for side in labels.shape]
        window = []
        for side, wanted in zip(sides, self.size, strict=True):
            window.append(int(random.integers(min(0, side - wanted), max(0, side - wanted) + 1)))
        picture = _crop_window(
            picture, sides, window, self.size, cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR, 127
        )
        labels = _crop_window(labels, sides, window, self.size, cv2.INTER_NEAREST, VOID)
        if random.random() < 0.5:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        return Scene(jitter_colors(picture, random), np.ascontiguousarray(labels))


def _crop_window(
    pixels: np.ndarray, sides: Sequence[int], window: Sequence[int], size: tuple[int, int], how: int, rest: int
) -> np.ndarray:
    """Return `pixels` resized to `sides` and then its window at `window` (may be negative) of `size`."""
    resized = cv2.resize(np.ascontiguousarray(pixels), (sides[1], sides[0]), interpolation=how)
    result = np.full((*size, *pixels.shape[2:]), rest, np.uint8)
    source, target = [], []
    for begin, wanted, side in zip(window, size, sides, strict=True):
        source.append(slice(max(0, begin), min(begin + wanted, side)))
        target.append(slice(max(0, -begin), max(0, -begin) + source[-1].stop - source[-1].start))
    result[tuple(target)] = resized[tuple(source)]
    return result


def jitter_colors(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `picture` uint8 in another brightness, contrast and color."""
    values = picture.astype(np.float32)
    gain = random.uniform(0.75, 1.25) * random.uniform(0.92, 1.08, 3)
    values = (values - 127) * random.uniform(0.75, 1.25) + 127
    values = values * gain.astype(np.float32) + random.uniform(-15, 15)
    gray = values.mean(axis=-1, keepdims=True)
    values = gray + (values - gray) * random.uniform(0.6, 1.3)
    return np.clip(values, 0, 255).astype(np.uint8)
