"""The exemplar method: textures go on, nothing else changes, and every mask that leaves enough gets a result."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.imaging.exemplar.fill import fill, has_sources
from tests.app.imaging.samples import noise, smooth


def make_stripes(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Diagonal stripes, 12 pixels wide."""
    rows, columns = np.mgrid[:height, :width]
    dark = (rows + columns) // 12 % 2 == 0
    colors = np.array([[200, 180, 90, 255], [60, 70, 130, 255]]) * (np.iinfo(dtype).max // 255)
    return colors[dark.astype(int)][..., :channels].astype(dtype)


def make_hole(height: int, width: int, box: tuple[slice, slice]) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[box] = True
    return hole


MIDDLE = np.s_[60:110, 70:130]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stripes_go_on_through_a_wide_hole(channels: int, dtype: Any) -> None:
    true = make_stripes(170, 200, channels, dtype)
    hole = make_hole(170, 200, MIDDLE)
    filled = fill(np.where(hole[..., None], 0, true).astype(dtype), hole)
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled[~hole], true[~hole])
    wrong = np.abs(filled[hole].astype(float) - true[hole]) > np.iinfo(dtype).max / 10
    assert wrong.any(axis=-1).mean() < 0.03


@pytest.mark.parametrize(
    "box", [np.s_[:60, :60], np.s_[-50:, 40:100], np.s_[:, -40:]], ids=["corner", "bottom", "side"]
)
def test_holes_at_the_border_are_filled_as_well(box: tuple[slice, slice]) -> None:
    true, hole = make_stripes(170, 200), make_hole(170, 200, box)
    filled = fill(np.where(hole[..., None], np.uint8(0), true), hole)
    light, dark = (
        np.abs(filled[hole].astype(int) - color).max(axis=-1) < 25 for color in ((200, 180, 90), (60, 70, 130))
    )
    assert (light | dark).mean() > 0.95  # stripes, and no mixture of them
    assert 0.35 < light.mean() < 0.65


def test_grain_stays_grain() -> None:
    grainy = (noise(160, 160, 1).astype(int) // 4 + 90).astype(np.uint8)
    hole = make_hole(160, 160, np.s_[50:110, 50:110])
    filled = fill(np.where(hole[..., None], np.uint8(0), grainy), hole)
    assert filled[hole].std() == pytest.approx(grainy[~hole].std(), rel=0.15)


def test_a_slope_of_brightness_has_no_seams() -> None:
    true = 30000 + smooth(160, 200, 3, np.uint16) // 3
    hole = make_hole(160, 200, MIDDLE)
    filled = fill(np.where(hole[..., None], 0, true).astype(np.uint16), hole).astype(int)
    steps = max(np.abs(np.diff(filled, axis=axis)).max() for axis in (0, 1))
    assert steps < 0.01 * 65535
    assert len(np.unique(filled[hole] & 255)) > 100  # all 16 bits are used


def test_transparency_is_filled_from_the_same_source_as_the_color() -> None:
    true = make_stripes(170, 200, 4, np.uint16)
    true[true[..., 0] < 100 * 257] = 0  # every other stripe is transparent
    hole = make_hole(170, 200, MIDDLE)
    filled = fill(np.where(hole[..., None], 0, true).astype(np.uint16), hole, has_alpha=True)
    colored, opaque = filled[..., 0] > 20000, filled[..., 3] > 30000
    assert (colored == opaque)[hole].mean() > 0.99
    assert 0.4 < opaque[hole].mean() < 0.6


def test_a_guide_says_which_of_two_areas_goes_on() -> None:
    picture = np.where(np.arange(200)[:, None, None] < 100, np.uint8(50), np.uint8(200)) + noise(200, 200, 3) // 16
    hole = make_hole(200, 200, np.s_[60:140, 60:140])
    for border in (80, 120):
        guide = np.where(np.arange(200)[:, None, None] < border, 0.25, 0.8) * np.ones((1, 200, 3))
        filled = fill(np.where(hole[..., None], np.uint8(0), picture), hole, None, guide.astype(np.float32))
        dark = (filled[60:140, 100, 0] < 130).sum() + 60
        assert dark == pytest.approx(border, abs=8)


def test_other_holes_are_no_source_and_are_left() -> None:
    true = make_stripes(170, 200)
    hole, other = make_hole(170, 200, MIDDLE), make_hole(170, 200, np.s_[10:40, 10:180])
    spoiled = true.copy()
    spoiled[hole | other] = 255
    filled = fill(spoiled, hole | other, hole)
    np.testing.assert_array_equal(filled[~hole], spoiled[~hole])
    assert filled[hole].max() < 240


def test_a_band_around_the_mask_is_no_source() -> None:
    true = make_stripes(170, 200)
    hole = make_hole(170, 200, MIDDLE)
    fringed = true.copy()
    fringed[58:112, 68:132] = 255  # the mask misses two pixels of a white object
    filled = fill(fringed, hole)
    assert (filled[hole] > 240).mean() < 0.01


def test_the_result_does_not_depend_on_threads() -> None:
    picture, hole = noise(120, 120, 3), make_hole(120, 120, np.s_[40:80, 40:80])
    with ThreadPoolExecutor(4) as pool:
        results = set(pool.map(lambda _: fill(picture, hole).tobytes(), range(8)))
    assert len(results) == 1


def test_the_interpreter_goes_on_meanwhile() -> None:
    picture, hole = noise(300, 300, 3), make_hole(300, 300, np.s_[90:210, 90:210])
    fill(picture, hole)  # compiled now
    ticks, ended = [], threading.Event()

    def tick() -> None:
        while not ended.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    fill(picture, hole)
    ended.set()
    thread.join()
    assert len(ticks) > 10


def test_work_ends_when_the_check_says_so() -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        fill(noise(120, 120, 3), make_hole(120, 120, np.s_[40:80, 40:80]), check=check)


def test_too_little_is_known() -> None:
    assert has_sources(hole := make_hole(100, 100, np.s_[20:80, 20:80]), hole)
    assert not has_sources(hole := make_hole(100, 100, np.s_[6:94, 6:94]), hole)
    assert not has_sources(hole := make_hole(9, 9, np.s_[4:5, 4:5]), hole)
    speckled = np.zeros((200, 200), bool)
    speckled[::6, ::6] = True  # no patch is whole
    assert not has_sources(speckled, speckled)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_mask_with_sources_gets_an_answer(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(12, 90)), data.draw(st.integers(12, 90))
    unknown = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(1, 4))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        unknown[top : top + data.draw(st.integers(1, height)), left : left + data.draw(st.integers(1, width))] = True
    if not has_sources(unknown, unknown):
        return
    channels = data.draw(st.sampled_from([1, 3]))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    picture = noise(height, width, channels, dtype)
    filled = fill(picture, unknown)
    assert filled.shape == picture.shape
    np.testing.assert_array_equal(filled[~unknown], picture[~unknown])
