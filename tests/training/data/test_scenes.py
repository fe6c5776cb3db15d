"""Views of labelled scenes: a picture and its labels stay together, and void is where nobody looked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.packs import Packs
from training.data.scenes import VOID, Scene, Views, scenes


def scene(height: int = 60, width: int = 80) -> Scene:
    """Return a scene whose red says the class: 40 for 0, 200 for 1."""
    labels = (np.mgrid[:height, :width][1] > width // 3).astype(np.uint8)
    picture = np.stack([np.where(labels, 200, 40), np.full_like(labels, 90), np.full_like(labels, 90)], -1)
    return Scene(picture.astype(np.uint8), labels)


def test_views_repeat_and_differ() -> None:
    views = Views([scene()], (32, 48), 3, 5, scales=(0.7, 1.4))
    first, again, other = views(4), views(4), views(5)
    assert first[0].shape == (3, 32, 48, 3)
    assert first[1].shape == (3, 32, 48)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize("turn", [False, True])
def test_labels_follow_their_picture(turn: bool) -> None:
    views = Views([scene()], (40, 40), 8, 1, scales=(0.8, 1.3), turn=turn)
    for index in range(4):
        pictures, labels = views(index)
        for picture, ids in zip(pictures, labels, strict=True):
            light, dark = picture[ids == 1], picture[ids == 0]
            if min(len(light), len(dark)) > 20:
                assert np.median(light[:, 0]) > np.median(dark[:, 0]) + 30


def test_what_lies_outside_is_void() -> None:
    pictures, labels = Views([scene(20, 20)], (64, 64), 4, 0, scales=(0.5, 0.6))(0)
    assert pictures.shape == (4, 64, 64, 3)
    assert ((labels == VOID).mean(axis=(1, 2)) > 0.5).all()
    assert (labels != VOID).any()


def test_a_folder_of_scenes(tmp_path: Path) -> None:
    for split, ids in (("labels", np.array([[0, 255], [3, 1]], np.uint8)), ("masks", np.array([[0, 255], [9, 0]]))):
        folder = tmp_path / split
        (folder / "images").mkdir(parents=True)
        (folder / split).mkdir()
        Image.new("RGB", (2, 2), (1, 2, 3)).save(folder / "images" / "a.png")
        Image.fromarray(ids.astype(np.uint8)).save(folder / split / "a.png")
    packs = Packs(tmp_path)
    (labelled,) = scenes(packs, "labels")
    assert labelled.labels.tolist() == [[0, VOID], [3, 1]]
    (masked,) = scenes(packs, "masks", labels="masks")
    assert masked.labels.tolist() == [[0, 1], [1, 0]]
    Image.new("L", (3, 2)).save(tmp_path / "masks" / "masks" / "a.png")
    with pytest.raises(ValueError, match="but its picture has"):
        scenes(packs, "masks", labels="masks")
    Image.new("RGB", (2, 2)).save(tmp_path / "masks" / "images" / "b.png")
    with pytest.raises(ValueError, match="the same names"):
        scenes(packs, "masks", labels="masks")
