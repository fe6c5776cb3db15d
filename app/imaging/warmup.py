"""Compiles the loops of the exemplar method and of cutouts, so that no request waits for it."""

from __future__ import annotations

import functools

import numpy as np

from app.imaging import guided_filter
from app.imaging.exemplar.fill import fill
from app.imaging.foreground import EdgeColors
from app.imaging.matting import refine_opacity


@functools.cache
def compile_loops() -> None:
    """Fill a small hole, and separate an edge.

    Takes some 10 s of a core where nothing compiled is on disk, else less than a second.
    """
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    hole = np.zeros((96, 96), bool)
    hole[32:64, 32:64] = True
    fill(picture, hole)
    fill(picture.astype(np.uint16), hole)
    edges = EdgeColors(picture, np.arange(96, dtype=np.uint8)[None].repeat(96, 0))
    edges.estimate(next(edges.windows()), functools.partial(refine_opacity, radius=3))
    guided_filter.fit(np.zeros((8, 8, 1), np.float32), np.zeros((8, 8, 3), np.float32))
