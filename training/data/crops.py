"""Random crops of photographs, as batches of uint8 on the host."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

HELD_OUT_EVERY = 32


def validation_split(
    pictures: Sequence[np.ndarray], every: int = HELD_OUT_EVERY
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return (training, validation): each `every`-th picture in sorted order is held out, the fixed rule."""
    return [p for i, p in enumerate(pictures) if i % every], [p for i, p in enumerate(pictures) if not i % every]


def crop_center(picture: np.ndarray, size: int) -> np.ndarray:
    """Return the central (size, size) pixels of a picture (height, width, channels) that is at least as large."""
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return picture[top : top + size, left : left + size]


class Crops:
    """Random square crops: `crops(index)` -> uint8 (batch, size, size, 3), the same for the same index.

    Each crop is taken from a picture drawn with probability proportional to its pixels, reduced by a factor between
    1 and `smallest` half of the time (sharper statistics), flipped and turned by a multiple of 90 degrees. With
    `smaller_than`, all are reduced, by this factor or more.
    """

    def __init__(
        self,
        pictures: Sequence[np.ndarray],
        size: int,
        batch: int,
        seed: int,
        smallest: float = 0.6,
        smaller_than: float | None = None,
    ) -> None:
        self.pictures = [picture for picture in pictures if min(picture.shape[:2]) >= size]
        if not self.pictures:
            raise ValueError(f"all pictures are smaller than a crop of {size} pixels")
        self.size, self.batch, self.seed, self.smallest, self.smaller_than = size, batch, seed, smallest, smaller_than
        area = np.array([picture.shape[0] * picture.shape[1] for picture in self.pictures], np.float64)
        self.share = area / area.sum()

    def __call__(self, index: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, index])
        chosen = random.choice(len(self.pictures), self.batch, p=self.share)
        return np.stack([self._crop(self.pictures[i], random) for i in chosen])

    def _crop(self, picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
        height, width = picture.shape[:2]
        if self.smaller_than is None:
            factor = random.uniform(self.smallest, 1) if random.random() < 0.5 else 1.0
        else:
            factor = random.uniform(self.smallest, self.smaller_than)
        side = min(int(round(self.size / factor)), height, width)
        top, left = random.integers(height - side + 1), random.integers(width - side + 1)
        crop = picture[top : top + side, left : left + side]
        if side != self.size:
            crop = cv2.resize(crop, (self.size, self.size), interpolation=cv2.INTER_AREA)
        crop = np.rot90(crop, int(random.integers(4)))
        return np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)
