"""Loops are compiled before the first request, for every kind of picture."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from app.imaging import foreground, guided_filter, matting, warmup
from app.imaging.exemplar import patches, poisson
from app.imaging.exemplar.fill import fill
from app.imaging.foreground import EdgeColors
from tests.app.imaging.samples import noise


def count_variants() -> int:
    loops = [
        value
        for module in (patches, poisson, foreground, guided_filter, matting)
        for value in vars(module).values()
        if hasattr(value, "signatures")
    ]
    assert len(loops) > 8
    return sum(len(loop.signatures) for loop in loops)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planes", [1, 3, 4])
def test_no_request_compiles_anything(planes: int, dtype: Any) -> None:
    warmup.compile_loops()
    before = count_variants()
    unknown = np.zeros((150, 300), bool)
    unknown[40:80, 40:80] = unknown[:20, 100:140] = True
    hole = unknown & (np.arange(300) < 90)
    picture = noise(300, 150, planes, dtype).transpose(1, 0, 2)  # any layout
    fill(picture, unknown.T.copy().T, hole, np.zeros((75, 150, planes), np.float32), has_alpha=planes == 4)
    edges = EdgeColors(picture[..., : 3 if planes > 1 else 1], np.full((300, 150), 99, dtype).T.copy().T)
    edges.estimate(next(edges.windows()), functools.partial(matting.refine_opacity, radius=2))
    found, guide = np.ones((30, 20, 3), np.float32).transpose(1, 0, 2), np.ones((20, 30, 3), np.float32)
    guided_filter.fit(found, guide)
    assert count_variants() == before
