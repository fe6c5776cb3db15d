"""Measures the edges of cutouts: `python -m benchmarks.edges --url URL [--model NAME]`.

Objects of the pack `object` before photographs of `photos-any` in which nothing stands out, with an opacity that is
known: a sharp edge, one out of focus, and hair that is drawn from the edge outwards. All is measured within NEAR pixels
of a pixel whose true opacity is intermediate, so that what the network takes for the object counts little:

* SAD: the sum of absolute differences of opacity, in thousands of pixels, mean over pictures;
* gradient: the sum of squared differences of its slope (Gaussian derivatives, σ 1.4), in thousands, as at
  alphamatting.com (Rhemann et al. 2009);
* color: mean absolute difference, of 255, of the cutout and the true foreground before green and before magenta.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.objects import is_empty, labeled, taught
from training.data.packs import Packs
from training.evaluation.service import Service

Pixels = NDArray[Any]
Floats = NDArray[Any]
NEAR = 12
FOUND = 0.8
KINDS = ("sharp", "out of focus", "hair")
BACKDROPS = ((0, 255, 0), (255, 0, 255))


class Composite(NamedTuple):
    """`picture` uint8 (height, width, 3): `front`, float32, before something else by its `opacity` (height, width)."""

    kind: str
    picture: Pixels
    opacity: Floats
    front: Floats


def composites(packs: Packs, count: int, enlarged: float = 1.5) -> Iterator[Composite]:
    """Yield `count` pictures of each kind, the same each time, `enlarged` from the pack's size."""
    drawn = [one for one in labeled(packs, "object/val") if 0.05 < one.opacity.mean() / 255 < 0.5]
    empty = [one.picture for one in taught(packs, "photos-any", "u2netp") if is_empty(one)]
    for number in range(count * len(KINDS)):
        random = np.random.default_rng(number)
        one = drawn[number // len(KINDS) % len(drawn)]
        size = tuple(round(side * enlarged) for side in one.opacity.shape[::-1])
        picture = cv2.resize(one.picture, size, interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(one.opacity, size, interpolation=cv2.INTER_LINEAR) > 127
        back = cv2.resize(empty[int(random.integers(len(empty)))], size, interpolation=cv2.INTER_CUBIC)
        yield _compose(KINDS[number % len(KINDS)], picture, mask, back, random)


def _compose(kind: str, picture: Pixels, mask: Pixels, back: Pixels, random: np.random.Generator) -> Composite:
    inside = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8))  # masks are drawn by hand: some background
    front = _spread(picture, inside)
    opacity = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 3.0 if kind == "out of focus" else 0.8)
    if kind == "hair":
        opacity = np.maximum(opacity, _hair(inside, random))
    mixture = front * opacity[..., None] + back * (1 - opacity[..., None])
    return Composite(kind, np.rint(mixture).astype(np.uint8), opacity, front)


def _spread(picture: Pixels, inside: Pixels) -> Floats:
    """Return `picture`, float32, with the colors inside continued outwards."""
    _, nearest = cv2.distanceTransformWithLabels(
        1 - inside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(inside)
    table = np.zeros(nearest.max() + 1, np.intp)
    table[nearest[rows, columns]] = rows * picture.shape[1] + columns
    return np.asarray(picture.reshape(-1, 3)[table[nearest]], np.float32)


def _hair(inside: Pixels, random: np.random.Generator) -> Floats:
    """Return the opacity of hairs that leave the edge, float32 (height, width): curves of about a pixel."""
    outline = max(cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)[:, 0]
    scale, shift = 4, 16
    canvas = np.zeros((inside.shape[0] * scale, inside.shape[1] * scale), np.uint8)
    center = outline.mean(axis=0)
    for root in outline[random.integers(len(outline), size=max(8, len(outline) // 5))].astype(np.float64):
        way = (root - center) / max(1.0, float(np.hypot(*(root - center))))
        bend, length = random.normal(0, 0.06), random.uniform(6, 22)
        points = []
        for step in np.linspace(0, 1, 12):
            angle = bend * step * length
            turned = np.array([way[0] * np.cos(angle) - way[1] * np.sin(angle),
                               way[0] * np.sin(angle) + way[1] * np.cos(angle)])  # fmt: skip
            points.append((root + turned * (step * length - 2)) * scale)
        line = np.rint(np.array(points) * shift).astype(np.int32)
        cv2.polylines(canvas, [line], False, 255, int(random.integers(2, 6)), cv2.LINE_AA, 4)
    return np.asarray(cv2.resize(canvas, inside.shape[::-1], interpolation=cv2.INTER_AREA), np.float32) / 255


def is_found(truth: Composite, opacity: Floats) -> bool:
    """Return whether the object is where `opacity` (height, width) in [0, 1] says."""
    inside, right = opacity > 0.5, truth.opacity > 0.5
    return bool((inside & right).sum() >= FOUND * (inside | right).sum())


def measure(truth: Composite, opacity: Floats, colors: Floats) -> tuple[float, float, float]:
    """Return (SAD, gradient error, color error) of a cutout: `opacity` (h, w) in [0, 1], `colors` (h, w, 3) to 255."""
    soft = ((truth.opacity > 0.02) & (truth.opacity < 0.98)).astype(np.uint8)
    near = cv2.dilate(soft, np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)).astype(bool)
    difference = np.abs(opacity - truth.opacity)[near].sum() / 1000
    slopes = _slope(opacity) - _slope(truth.opacity)
    errors = []
    for backdrop in BACKDROPS:
        shown = colors * opacity[..., None] + np.array(backdrop, np.float32) * (1 - opacity[..., None])
        right = truth.front * truth.opacity[..., None] + np.array(backdrop, np.float32) * (1 - truth.opacity[..., None])
        errors.append(np.abs(shown - right)[near].mean())
    return float(difference), float((slopes[near] ** 2).sum() / 1000), float(np.mean(errors))


def _slope(values: Floats) -> Floats:
    smooth = cv2.GaussianBlur(values, (0, 0), 1.4)
    return np.asarray(np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=1) / 2,
                               cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=1) / 2), np.float32)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="address of the service")
    parser.add_argument("--model", default="object", help="model of /segment (default: object)")
    parser.add_argument("--count", type=int, default=12, help="pictures of each kind (default: 12)")
    options = parser.parse_args()
    service = Service(options.url)
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for one in composites(Packs(), options.count):
        cutout = service.cut_out(one.picture, options.model).astype(np.float32)
        if is_found(one, cutout[..., 3] / 255):
            found[one.kind].append(measure(one, cutout[..., 3] / 255, cutout[..., :3]))
    print("| edge | pictures | SAD | gradient | color |\n|---|---|---|---|---|")
    for kind, rows in found.items():
        means = " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0)) if rows else "- | - | -"
        print(f"| {kind} | {len(rows)} | {means} |")


if __name__ == "__main__":
    main()
