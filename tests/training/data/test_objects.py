"""Views of objects: whole, in their places, and pasted before other pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import objects
from training.data.objects import Cutting, ObjectViews
from training.data.packs import Packs, WrongPack

SIZE = 64, 96


def disc(radius: int = 30) -> Cutting:
    """Return a red disc on green."""
    inside = np.hypot(*(np.mgrid[:100, :140] - np.array([50, 70])[:, None, None])) < radius
    picture = np.where(inside[..., None], (200, 20, 20), (20, 160, 40)).astype(np.uint8)
    return Cutting(picture, inside.astype(np.uint8) * 255)


def agreement(view: Cutting) -> float:
    """Return the share of pixels that are red where they should be, and elsewhere not."""
    red = view.picture[..., 0].astype(int) > view.picture[..., 1].astype(int)
    return float((red == (view.opacity > 127)).mean())


def test_views_keep_the_opacity_with_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "vary", lambda picture, random: picture)
    views = ObjectViews([disc()], seed=0)
    for number in range(8):
        view = views(number, SIZE)
        assert view.picture.shape == (*SIZE, 3)
        assert view.opacity.shape == SIZE
        assert agreement(view) > 0.98
    np.testing.assert_array_equal(views(3, SIZE).picture, views(3, SIZE).picture)
    assert len({views(number, SIZE).opacity.tobytes() for number in range(8)}) > 4


def test_pasted_objects_are_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "vary", lambda picture, random: picture)
    blue = Cutting(np.full((80, 80, 3), (10, 10, 220), np.uint8), np.zeros((80, 80), np.uint8))
    for number in range(8):
        view = objects.pasted(ObjectViews([disc()], seed=0), [blue], number, SIZE)
        assert agreement(view) > 0.96
        outside = view.picture[view.opacity == 0]
        assert (outside[:, 2] > outside[:, 1]).mean() > 0.9  # blue, not the object's own background


def test_variations_and_drawings_are_pictures() -> None:
    picture = disc().picture
    kinds = {objects.vary(picture, np.random.default_rng(seed)).tobytes() for seed in range(30)}
    assert len(kinds) == 30
    drawing = objects.draw(picture, np.random.default_rng(1))
    assert drawing.shape == picture.shape
    assert drawing.dtype == np.uint8
    assert drawing.min() < 60  # outlines


def test_a_teacher_is_believed_where_it_is_sure() -> None:
    unsure = Cutting(disc().picture, np.full((100, 140), 128, np.uint8))
    nothing = Cutting(disc().picture, np.zeros((100, 140), np.uint8))
    assert [objects.is_sure(one) for one in (disc(), unsure, nothing)] == [True, False, False]
    assert [objects.is_empty(one) for one in (disc(), unsure, nothing)] == [False, False, True]


def test_batches_take_from_their_sources_in_turn_at_one_size() -> None:
    def source(value: int) -> objects.Source:
        return lambda number, size: Cutting(np.full((*size, 3), value, np.uint8), np.full(size, number, np.uint8))

    make = objects.interleave([source(1), source(2), source(3)], 2, [(8, 16), (16, 8)])
    batches = [make(index) for index in range(3)]
    assert [batch["image"].shape for batch in batches] == [(2, 8, 16, 3), (2, 16, 8, 3), (2, 8, 16, 3)]
    assert [int(view[0, 0, 0]) for batch in batches for view in batch["image"]] == [1, 2, 3, 1, 2, 3]
    assert [int(view[0, 0]) for batch in batches for view in batch["opacity"]] == [0, 1, 2, 3, 4, 5]


def test_masks_and_answers_are_read_with_their_pictures(tmp_path: Path) -> None:
    for folder in ("object/train/images", "object/train/masks", "any", "any/small"):
        (tmp_path / folder).mkdir(parents=True)
        mask = folder.endswith(("masks", "small"))
        Image.fromarray(disc().opacity if mask else disc().picture).save(tmp_path / folder / "a.png")
    for cuttings in (
        objects.labeled(Packs(tmp_path), "object/train"),
        objects.taught(Packs(tmp_path), "any", "small"),
    ):
        np.testing.assert_array_equal(cuttings[0].opacity, disc().opacity)
    (tmp_path / "any/small/a.png").rename(tmp_path / "any/small/b.png")
    with pytest.raises(WrongPack, match="same names"):
        objects.taught(Packs(tmp_path), "any", "small")
