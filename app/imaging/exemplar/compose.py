"""Puts the filled picture together from one source per pixel, without seams of color."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.imaging import holes
from app.imaging.exemplar import patches, poisson
from app.imaging.exemplar.field import Ints, find
from app.imaging.holes import Mask
from app.imaging.tiles import Box

SCREEN = 1 / 48**2
"""A difference of color at a seam is spread over about 48 pixels."""

EDGE = 0.15
"""A difference above this share of white is an edge."""


def compose(planes: NDArray[Any], unknown: Mask, hole: Mask, dy: Ints, dx: Ints) -> NDArray[Any]:
    """Return `planes`, uint8 or uint16 (height, width, planes), with the `hole` copied from (dy, dx) pixels away.

    The copy has the gradients of its sources and, between pixels with different sources, the mean of both sources'
    (Poisson image editing, Perez, Gangnet and Blake 2003). The equation is screened, so that a difference at one side
    of a hole does not reach the other. `unknown` are pixels of which nothing is known, `hole` some of them, bool
    (height, width).
    """
    rows, columns = find(hole)
    copied = planes.copy()
    patches.copy(copied, rows, columns, dy[rows, columns], dx[rows, columns])
    inner = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    box = holes.expand_box(inner, 1, hole.shape)
    free = np.ascontiguousarray(hole[box.slices])
    inside, white = (rows - box.top, columns - box.left), np.iinfo(planes.dtype).max
    for plane in range(planes.shape[-1]):
        values = np.ascontiguousarray(copied[..., plane], np.float32)
        seams = np.zeros(free.shape, np.float32)
        limit = np.float32(EDGE * white)
        poisson.add_seams(values, unknown, hole, dy, dx, rows, columns, box.top, box.left, limit, seams)
        change = poisson.solve(seams, free, SCREEN)[inside]
        copied[rows, columns, plane] = np.rint(np.clip(values[rows, columns] + change, 0, white))
    return copied
