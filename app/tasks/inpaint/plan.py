"""Decides which parts of a picture are filled, and by which method, and refuses too much work before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.errors import WorkTooLarge
from app.imaging import classical_inpaint, holes
from app.imaging.exemplar.fill import has_sources
from app.imaging.holes import Mask, Region
from app.imaging.tiles import Box
from models.manifest import Manifest

MAX_WORK = 250_000_000
"""Limit of missing pixels × radius² for Telea and Navier-Stokes: about half a minute on one core."""
MIN_RADIUS = 7
"""The cost per pixel does not decrease below this radius."""
MAX_BIHARMONIC = 160_000
"""Limit of missing pixels in one hole for the biharmonic method: about eight seconds and a gigabyte."""
MAX_BIHARMONIC_TOTAL = 2_000_000
"""Limit of missing pixels in all holes for the biharmonic method."""
MAX_EXEMPLAR = 2_000_000
"""Limit of missing pixels in one hole for the exemplar method: about 20 seconds on one core."""
MAX_EXEMPLAR_TOTAL = 4_000_000
"""Limit of missing pixels in all holes for the exemplar method."""
MAX_WINDOW = 8_000_000
"""Limit of pixels of a hole and its surroundings for the exemplar method: about 500 MiB."""
SCRATCH = 8
"""Without a model, `auto` uses the biharmonic method for holes up to so many pixels wide (`benchmarks.inpaint`)."""
WIDE = 8
"""`auto` copies into holes that are somewhere wider than so many pixels (`benchmarks.inpaint width`)."""
MARGIN = 2 * holes.THIN
"""Pixels around a hole, in addition to the radius, that the result may depend on."""
NEAREST, FARTHEST = 96, 256
"""Pixels around a hole that the exemplar method copies from: at least, and at most beside a quarter of its side."""

ModelMethod = Literal["neural", "dcgan"]
Method = ModelMethod | Literal["exemplar"] | classical_inpaint.Method
Obstacle = Literal["", "too-few-known-pixels", "too-large"]


@dataclass(frozen=True, slots=True)
class Part:
    """A region and its method. `obstacle` says why that is not the exemplar method, if it would have been."""

    region: Region
    method: Method
    obstacle: Obstacle = ""


def make_plan(missing: Mask, method: Method | Literal["auto"], radius: int, manifest: Manifest | None) -> list[Part]:
    """Return the parts of the picture to fill, which cover `missing`, bool (height, width), top to bottom.

    `manifest` is the model for the method, if there is one; `auto` and the exemplar method do without. Raises
    WorkTooLarge.
    """
    if manifest is not None and manifest.geometry.kind in ("whole", "fixed"):
        whole = Box(0, 0, *missing.shape)
        parts = [Part(Region(whole, whole), "dcgan" if method == "dcgan" else "neural")]
    elif method == "auto" or method == "exemplar":
        parts = _plan_exemplar(missing, radius, manifest, only_wide=method == "auto")
    else:
        parts = [Part(region, method) for region in holes.find_regions(missing, MARGIN + 2 * radius)]
    _check_work(parts, missing, method, radius)
    return parts


def _plan_exemplar(missing: Mask, radius: int, manifest: Manifest | None, *, only_wide: bool) -> list[Part]:
    """Return parts for the exemplar method; with `only_wide`, thin holes and too much work are for other methods."""
    parts, rest = [], missing.copy()
    # Without a margin: holes near each other are filled one by one, so the work is in proportion to what is missing.
    for region in holes.find_regions(missing, 0):
        if not only_wide or not holes.is_thin(missing[region.core.slices], WIDE):
            rest[region.core.slices] = False
            parts.append(_plan_hole(region.core, missing, radius, manifest))
    if only_wide and _count_all(parts, missing, "exemplar") > MAX_EXEMPLAR_TOTAL:
        parts = [_replace(part.region.core, missing, radius, manifest, "too-large") for part in parts]
    if rest.any():
        thin = holes.find_regions(rest, MARGIN + 2 * radius)
        parts += [_replace(region.core, missing, radius, manifest) for region in thin]
    return sorted(parts, key=lambda part: (part.region.core.top, part.region.core.left))


def _plan_hole(core: Box, missing: Mask, radius: int, manifest: Manifest | None) -> Part:
    side = max(core.height, core.width)
    window = holes.expand_box(core, max(NEAREST, min(side + side // 2, FARTHEST + side // 4)), missing.shape)
    if window.height * window.width > MAX_WINDOW or _count(core, missing) > MAX_EXEMPLAR:
        return _replace(core, missing, radius, manifest, "too-large")
    for box in (window, Box(0, 0, *missing.shape)):
        if box.height * box.width <= MAX_WINDOW:
            unknown, hole = missing[box.slices], np.zeros((box.height, box.width), bool)
            part = core.relative_to(box).slices
            hole[part] = unknown[part]
            if has_sources(np.ascontiguousarray(unknown), hole):
                return Part(Region(core, box), "exemplar")
    return _replace(core, missing, radius, manifest, "too-few-known-pixels")


def _replace(core: Box, missing: Mask, radius: int, manifest: Manifest | None, obstacle: Obstacle = "") -> Part:
    """Return the part by the model, or without one by the best classical method."""
    region = Region(core, holes.expand_box(core, MARGIN + 2 * radius, missing.shape))
    if manifest is not None:
        return Part(region, "neural", obstacle)
    scratch = holes.is_thin(missing[core.slices], SCRATCH) and _count(region.window, missing) <= MAX_BIHARMONIC
    return Part(region, "biharmonic" if scratch else "ns", obstacle)


def _count(box: Box, missing: Mask) -> int:
    return int(np.count_nonzero(missing[box.slices]))


def _count_all(parts: Sequence[Part], missing: Mask, *methods: Method) -> int:
    """Return the number of missing pixels in the windows of the parts by `methods`; in the cores for the exemplar."""
    boxes = [
        part.region.core if part.method == "exemplar" else part.region.window
        for part in parts
        if part.method in methods
    ]
    return sum(_count(box, missing) for box in boxes)


def _check_work(parts: Sequence[Part], missing: Mask, method: str, radius: int) -> None:
    """Raise WorkTooLarge if a core would be used for too long."""
    smooth = [_count(part.region.window, missing) for part in parts if part.method == "biharmonic"]
    if smooth and (max(smooth) > MAX_BIHARMONIC or sum(smooth) > MAX_BIHARMONIC_TOTAL):
        raise WorkTooLarge(
            f"`method=biharmonic` would fill {max(smooth)} pixels in one hole and {sum(smooth)} in total; the limits "
            f"are {MAX_BIHARMONIC} and {MAX_BIHARMONIC_TOTAL}. Use telea or ns, or a smaller mask.",
            field="method",
            value=max(smooth),
            limit=MAX_BIHARMONIC,
        )
    copied = _count_all(parts, missing, "exemplar")
    if copied > MAX_EXEMPLAR_TOTAL or (method == "exemplar" and any(part.obstacle == "too-large" for part in parts)):
        largest = max(_count(part.region.core, missing) for part in parts)
        raise WorkTooLarge(
            f"`method=exemplar` would fill {largest} pixels in one hole and {copied} in total; the limits are "
            f"{MAX_EXEMPLAR} and {MAX_EXEMPLAR_TOTAL}, and {MAX_WINDOW} for a hole with its surroundings. Use auto or "
            "neural, a smaller mask or a smaller picture.",
            field="method",
            value=largest,
            limit=MAX_EXEMPLAR,
        )
    marched = _count_all(parts, missing, "telea", "ns")
    work = marched * max(radius, MIN_RADIUS) ** 2
    if work > MAX_WORK:
        raise WorkTooLarge(
            f"{marched} pixels to fill × radius² (with a radius of {max(radius, MIN_RADIUS)}) is {work}; the limit is "
            f"{MAX_WORK}. Use a smaller `radius` or mask.",
            field="radius",
            value=work,
            limit=MAX_WORK,
        )
