"""Pictures with an object each and its opacity, as views to learn from: varied, pasted before others, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from training.data.packs import Packs, WrongPack
from training.data.scenes import jitter_colors

UNSURE = 0.25
"""Answers of a teacher of which more than this share of the object is neither yes nor no are left out."""
EMPTY = 0.06
"""Of pictures that others are pasted before, the object fills less than this share."""


Source = Callable[[int, tuple[int, int]], "Cutting"]
"""Makes a view by its number and size (height, width)."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """`picture` uint8 (height, width, 3) with the `opacity` of its object, uint8 (height, width)."""

    picture: np.ndarray
    opacity: np.ndarray


def labeled(packs: Packs, folder: str, keep: slice = slice(None)) -> list[Cutting]:
    """Return the pictures of `folder`/images with their masks, sorted by name. Raises MissingPack, WrongPack."""
    return _read(packs, f"{folder}/images", f"{folder}/masks", keep)


def taught(packs: Packs, folder: str, answers: str) -> list[Cutting]:
    """Return the pictures of `folder` with what a teacher answered, below it. Raises MissingPack, WrongPack."""
    return _read(packs, folder, f"{folder}/{answers}", slice(None))


def is_sure(cutting: Cutting) -> bool:
    """Return whether there is an object and few of its pixels are in doubt."""
    found = np.count_nonzero(cutting.opacity > 127)
    doubtful = np.count_nonzero((cutting.opacity > 51) & (cutting.opacity < 204))
    return bool(found > 0.01 * cutting.opacity.size and doubtful < UNSURE * found)


def is_empty(cutting: Cutting) -> bool:
    """Return whether hardly anything stands out, so that what is pasted before it is the object."""
    return bool(cutting.opacity.mean() < 255 * EMPTY)


def _read(packs: Packs, images: str, masks: str, keep: slice) -> list[Cutting]:
    pictures, truths = packs.files(images)[keep], packs.files(masks)[keep]
    if [file.stem for file in pictures] != [file.stem for file in truths]:
        raise WrongPack(f"{images} and {masks} must have files with the same names")
    opacities = [np.ascontiguousarray(truth[..., 0]) for truth in packs.pictures(masks, keep)]
    return [Cutting(*pair) for pair in zip(packs.pictures(images, keep), opacities, strict=True)]


class ObjectViews:
    """Views of `size` by number: (picture uint8 (h, w, 3), opacity uint8 (h, w)), the same for the same number.

    A part of the picture is cut out, brought to the size, mirrored half of the time, and varied in color.
    """

    def __init__(self, cuttings: Sequence[Cutting], seed: int, smallest: float = 0.72) -> None:
        self.cuttings, self.seed, self.smallest = cuttings, seed, smallest

    def __call__(self, number: int, size: tuple[int, int]) -> Cutting:
        """Return view `number` of height and width `size`."""
        random = np.random.default_rng([self.seed, number])
        chosen = self.cuttings[int(random.integers(len(self.cuttings)))]
        view = _crop(chosen, size, self.smallest, random)
        return Cutting(vary(view.picture, random), view.opacity)


def pasted(fronts: ObjectViews, backs: Sequence[Cutting], number: int, size: tuple[int, int]) -> Cutting:
    """Return an object of `fronts`, scaled, turned and moved, before one of `backs`.

    Copy-paste (Ghiasi et al. 2021, arXiv 2012.07177), with an edge of a random softness, so that it does not give
    itself away.
    """
    front = fronts(number, size)
    random = np.random.default_rng([fronts.seed, number, 1])
    back = _crop(backs[int(random.integers(len(backs)))], size, 0.5, random).picture
    height, width = size
    turn = cv2.getRotationMatrix2D(
        (width / 2, height / 2), float(random.uniform(-25, 25)), float(np.exp(random.uniform(np.log(0.5), 0.1)))
    )
    turn[:, 2] = turn[:, 2] + random.uniform(-0.15, 0.15, 2) * np.array([width, height])
    opacity = cv2.warpAffine(front.opacity, turn, (width, height))
    picture = cv2.warpAffine(front.picture, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    soft = cv2.GaussianBlur(opacity.astype(np.float32) / 255, (0, 0), float(random.uniform(0.4, 1.5)))[..., None]
    mixture = np.rint(picture * soft + vary(back, random) * (1 - soft)).astype(np.uint8)
    return Cutting(mixture, opacity)


def vary(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `picture` in other light: now and then gray, blurred, noisy or as a drawing."""
    picture = jitter_colors(picture, random)
    kind = random.random()
    if kind < 0.06:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1)
    elif kind < 0.12:
        picture = cv2.GaussianBlur(picture, (0, 0), float(random.uniform(0.5, 1.5)))
    elif kind < 0.17:
        noise = random.normal(0, random.uniform(2, 15), picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    elif kind < 0.25:
        picture = draw(picture, random)
    return picture


def draw(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return `picture` as a drawing: flat colors with dark outlines, or the outlines alone."""
    gray = cv2.medianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 5)
    lines = cv2.adaptiveThreshold(
        gray, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, float(random.uniform(2, 6))
    )
    lines = cv2.GaussianBlur(lines, (0, 0), 0.6)[..., None].astype(np.float32) / 255
    if random.random() < 0.3:
        return np.rint(np.repeat(lines, 3, axis=-1) * 255).astype(np.uint8)
    flat = cv2.bilateralFilter(picture, 7, 60, 7)
    steps = float(random.uniform(16, 40))
    flat = np.clip((flat // steps + 0.5) * steps, 0, 255)
    return np.rint(flat * lines).astype(np.uint8)


def _crop(cutting: Cutting, size: tuple[int, int], smallest: float, random: np.random.Generator) -> Cutting:
    """Return a random part of at least `smallest` of each side, brought to `size` and mirrored half of the time."""
    height, width = cutting.opacity.shape
    common = random.uniform(smallest, 1)
    window = []
    for side in (height, width):
        kept = round(side * min(1.0, common * float(random.uniform(1, 1.15))))
        begin = int(random.integers(side - kept + 1))
        window.append(slice(begin, begin + kept))
    turn = -1 if random.random() < 0.5 else 1
    parts = []
    for pixels in (cutting.picture, cutting.opacity):
        part = np.ascontiguousarray(pixels[tuple(window)])
        how = cv2.INTER_AREA if part.shape[0] > size[0] else cv2.INTER_LINEAR
        parts.append(cv2.resize(part, (size[1], size[0]), interpolation=how)[:, ::turn])
    return Cutting(*(np.ascontiguousarray(part) for part in parts))


def interleave(
    sources: Sequence[Source], batch: int, sizes: Sequence[tuple[int, int]]
) -> Callable[[int], dict[str, np.ndarray]]:
    """Return batches `image` uint8 (N,h,w,3) and `opacity` uint8 (N,h,w) from `sources` in turn, one size a batch."""

    def make(index: int) -> dict[str, np.ndarray]:
        size = sizes[index % len(sizes)]
        numbers = range(index * batch, (index + 1) * batch)
        views = [sources[number % len(sources)](number, size) for number in numbers]
        return {"image": np.stack([one.picture for one in views]), "opacity": np.stack([one.opacity for one in views])}

    return make
