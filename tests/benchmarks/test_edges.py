"""The benchmark of edges: its pictures are what it says, and a perfect cutout has no error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import edges
from training.data.packs import Packs


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    root: Path = tmp_path_factory.mktemp("packs")
    for folder in ("object/val/images", "object/val/masks", "photos-any/u2netp"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    inside = np.hypot(*(np.mgrid[:120, :160] - np.array([60, 80])[:, None, None])) < 35
    red = np.where(inside[..., None], (200, 40, 40), (90, 90, 90)) + random.integers(0, 20, (120, 160, 3))
    Image.fromarray(red.astype(np.uint8)).save(root / "object/val/images/a.png")
    Image.fromarray(inside).save(root / "object/val/masks/a.png")
    Image.fromarray(random.integers(0, 255, (90, 100, 3), np.uint8)).save(root / "photos-any/a.png")
    Image.fromarray(np.zeros((90, 100), np.uint8)).save(root / "photos-any/u2netp/a.png")
    return Packs(root)


def test_pictures_mix_what_is_known(packs: Packs) -> None:
    found = list(edges.composites(packs, 2))
    assert [one.kind for one in found] == [*edges.KINDS, *edges.KINDS]
    sharp, blurred, hair = found[:3]
    soft = [((one.opacity > 0.02) & (one.opacity < 0.98)).sum() for one in found[:3]]
    assert soft[0] < soft[1]
    assert soft[0] < soft[2]
    assert (hair.opacity - sharp.opacity).max() > 0.5  # hairs stand out of the edge
    opaque = blurred.opacity > 0.999
    np.testing.assert_allclose(blurred.picture[opaque], blurred.front[opaque], atol=1)
    again = next(edges.composites(packs, 2))
    np.testing.assert_array_equal(again.picture, sharp.picture)


def test_a_perfect_cutout_has_no_error_and_a_worse_one_more(packs: Packs) -> None:
    one = next(edges.composites(packs, 1))
    assert edges.measure(one, one.opacity, one.front) == pytest.approx((0, 0, 0), abs=1e-4)
    assert edges.is_found(one, one.opacity)
    wider = np.roll(one.opacity, 2, axis=1)
    assert all(value > 0.01 for value in edges.measure(one, wider, one.front))
    mixed = edges.measure(one, one.opacity, one.picture.astype(np.float32))
    assert mixed[:2] == pytest.approx((0, 0), abs=1e-4)
    assert mixed[2] > 0.1  # a rim of what was behind
    assert not edges.is_found(one, 1 - one.opacity)
