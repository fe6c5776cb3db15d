"""Crops: the same for the same index, of the size asked for, and never from what is held out."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.crops import Crops, validation_split
from training.data.packs import Packs


def pictures(count: int = 40) -> list[np.ndarray]:
    """Return pictures of different sizes, each of one value: its index."""
    return [np.full((40 + i, 70 - i, 3), i, np.uint8) for i in range(count)]


def test_the_same_index_is_the_same_batch() -> None:
    noise = [np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8)]
    crops, again, other = (Crops(noise, 32, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(crops(7), again(7))
    crops(3)
    np.testing.assert_array_equal(crops(7), again(7))
    assert (crops(7) != crops(8)).any()
    assert (crops(7) != other(7)).any()


@pytest.mark.parametrize("size", [1, 7, 31])
def test_batches_are_bytes_of_the_size_asked_for(size: int) -> None:
    crops = Crops(pictures(), size, 6, 0)
    for index in range(5):
        batch = crops(index)
        assert (batch.dtype, batch.shape) == (np.uint8, (6, size, size, 3))
        assert batch.flags.c_contiguous


def test_a_crop_is_flipped_and_turned_all_eight_ways() -> None:
    """A picture of exactly the size of a crop can come back only as one of its eight symmetries."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    ways = {np.rot90(side, turn).tobytes() for side in (picture, picture[:, ::-1]) for turn in range(4)}
    found = {crop.tobytes() for index in range(20) for crop in Crops([picture], 8, 8, 0)(index)}
    assert found == ways


def test_half_of_the_crops_are_reduced() -> None:
    """Reducing stripes of one pixel makes them gray; cutting leaves them black and white."""
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[::2] = 255
    whole = [set(np.unique(crop)) == {0, 255} for index in range(20) for crop in Crops([stripes], 32, 16, 0)(index)]
    assert 0.4 < np.mean(whole) < 0.6


def test_all_of_the_crops_are_reduced_where_they_are_to_be_smaller() -> None:
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[::2] = 255
    crops = Crops([stripes], 32, 16, 0, smallest=0.25, smaller_than=0.5)
    # The mean over two stripes or more.
    assert max(int(np.ptp(crop)) for index in range(20) for crop in crops(index)) < 200


def test_large_pictures_are_drawn_more_often() -> None:
    small, large = np.zeros((32, 32, 3), np.uint8), np.full((96, 96, 3), 1, np.uint8)
    drawn = np.concatenate([Crops([small, large], 16, 32, 0)(index)[:, 0, 0, 0] for index in range(20)])
    assert np.mean(drawn) == pytest.approx(0.9, abs=0.04)


def test_pictures_smaller_than_a_crop_are_left_out() -> None:
    small, large = np.zeros((20, 90, 3), np.uint8), np.full((32, 32, 3), 9, np.uint8)
    assert (Crops([small, large], 24, 8, 0)(0) == 9).all()
    with pytest.raises(ValueError, match="24 pixels"):
        Crops([small], 24, 8, 0)


def test_what_is_held_out_is_never_cropped() -> None:
    training, held_out = validation_split(pictures(), every=8)
    drawn = {int(value) for index in range(60) for value in np.unique(Crops(training, 16, 16, 0)(index))}
    kept = {int(picture[0, 0, 0]) for picture in held_out}
    assert kept == {0, 8, 16, 24, 32}
    assert drawn == set(range(40)) - kept


@pytest.mark.data
@pytest.mark.parametrize(("folder", "total", "held_out"), [("photos/train", 647, 21), ("faces/train", 2000, 63)])
def test_the_rule_holds_out_the_same_pictures_of_a_pack(packs: Packs, folder: str, total: int, held_out: int) -> None:
    files = packs.files(folder)
    training, kept = validation_split([np.array(i) for i in range(len(files))])
    assert (len(files), len(kept)) == (total, held_out)
    assert not {int(i) for i in training} & {int(i) for i in kept}
    assert len(training) + len(kept) == total
