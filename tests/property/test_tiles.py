"""Tiles: for any size every pixel is covered once, and tiled results equal untiled ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.imaging.tiles import MAX_OVERLAP, Canvas, Plan, choose_tile_size, count_work, cut, make_plan

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

SIZES = [(1, 1), (1, 7), (2, 1), (3, 2), (15, 17), (16, 16), (31, 33), (47, 48), (97, 5), (101, 103), (1, 300)]


def run(plan: Plan, pixels: NDArray[Any], network: Network, dtype: type = np.float32) -> NDArray[Any]:
    canvas = Canvas(plan, pixels.shape[2], dtype)
    for tile in plan.tiles:
        canvas.add(tile, network(cut(pixels, plan, tile.window)))
    return canvas.result()


def noise(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> NDArray[Any]:
    rng = np.random.default_rng([height, width, channels])
    return rng.integers(0, np.iinfo(dtype).max, (height, width, channels), endpoint=True).astype(dtype)


def identity(tile: NDArray[np.float32]) -> NDArray[np.float32]:
    return tile


def enlarge(scale: int) -> Network:
    return lambda tile: tile.repeat(scale, axis=1).repeat(scale, axis=2)


def convolution(radius: int, seed: int = 0) -> Network:
    """A convolution over (2 radius + 1)² pixels with zeros outside, as networks pad, so that borders show."""
    kernel = np.random.default_rng(seed).uniform(-1, 1, (2 * radius + 1, 2 * radius + 1)).astype(np.float64)
    kernel /= np.abs(kernel).sum()

    def apply(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.pad(tile.astype(np.float64), ((0, 0), (radius, radius), (radius, radius), (0, 0)))
        out = np.zeros(tile.shape)
        for dy, dx in itertools.product(range(2 * radius + 1), repeat=2):
            out += kernel[dy, dx] * padded[:, dy : dy + tile.shape[1], dx : dx + tile.shape[2]]
        return out.astype(np.float32)

    return apply


def pool(multiple: int) -> Network:
    """Each pixel becomes the mean of its grid cell, which shows whether a window begins off the grid."""

    def apply(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        n, h, w, c = tile.shape
        cells = tile.reshape(n, h // multiple, multiple, w // multiple, multiple, c).mean(axis=(2, 4), dtype=np.float64)
        return cells.repeat(multiple, 1).repeat(multiple, 2).astype(np.float32)

    return apply


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the arguments of make_plan that come from a model: any step, and any size that exceeds the margins."""
    multiple, halo = draw(st.sampled_from([1, 2, 4, 8])), draw(st.integers(0, 12))
    step = multiple * draw(st.integers(1, 5))
    least = 2 * (-(-halo // multiple) * multiple) // step + 1
    return {
        "multiple": multiple,
        "halo": halo,
        "tile_step": step,
        "tile_size": step * draw(st.integers(least, least + 6)),
    }


@given(st.integers(1, 120), st.integers(1, 120), geometries(), st.integers(1, 4))
@settings(max_examples=200)
def test_the_inner_parts_cover_each_pixel_once(height: int, width: int, geometry: dict[str, Any], scale: int) -> None:
    plan = make_plan(height, width, **geometry, scale=scale)
    halo, step = geometry["halo"], geometry["tile_step"]
    frame = [-(-side // step) * step for side in (height, width)]
    count = np.zeros((height, width), int)
    for tile in plan.tiles:
        inner, window = tile.inner, tile.window
        count[inner.top : inner.bottom, inner.left : inner.right] += 1
        assert window.top % geometry["multiple"] == window.left % geometry["multiple"] == 0
        assert window.height % step == window.width % step == 0 < min(inner.height, inner.width)
        assert max(window.height, window.width) <= geometry["tile_size"]
        assert 0 <= window.top == 0 or inner.top - window.top >= halo
        assert 0 <= window.left == 0 or inner.left - window.left >= halo
        assert window.bottom == frame[0] or frame[0] > window.bottom >= inner.bottom + halo
        assert window.right == frame[1] or frame[1] > window.right >= inner.right + halo
    assert (count == 1).all()
    assert [tile.index for tile in plan.tiles] == list(range(len(plan.tiles)))


@given(st.integers(1, 300), st.integers(1, 300), geometries())
@settings(max_examples=200)
def test_the_work_is_counted_without_a_plan(height: int, width: int, geometry: dict[str, Any]) -> None:
    plan = make_plan(height, width, **geometry)
    work = sum(tile.window.height * tile.window.width for tile in plan.tiles)
    assert count_work(height, width, **geometry) == work == count_work(width, height, **geometry)


def choose(height: int, width: int, geometry: dict[str, Any], max_pixels: float) -> tuple[tuple[int, int], int]:
    """Return the tile that is chosen, and how many pixels its windows have."""
    tile = choose_tile_size(height, width, **geometry, max_pixels=max_pixels)
    assert tile == choose_tile_size(height, width, **geometry, max_pixels=max_pixels)
    return tile, count_work(height, width, **{**geometry, "tile_size": tile})


@given(st.integers(1, 300), st.integers(1, 300), geometries(), st.integers(0, 10_000), st.integers(0, 10_000))
@settings(max_examples=60)
def test_more_memory_never_computes_more(
    height: int, width: int, geometry: dict[str, Any], less: int, more: int
) -> None:
    smallest = geometry["tile_size"]
    works = [count_work(height, width, **geometry)]
    for max_pixels in sorted([less, more]):
        tile, work = choose(height, width, geometry, max_pixels)
        plan = make_plan(height, width, **{**geometry, "tile_size": tile})
        assert work == sum(one.window.height * one.window.width for one in plan.tiles)
        largest = max(one.window.height * one.window.width for one in plan.tiles)
        assert min(tile) >= smallest
        assert tile == (smallest, smallest) or largest <= max(max_pixels, smallest**2)
        works.append(work)
    assert works == sorted(works, reverse=True)


@given(st.integers(1, 90), st.integers(1, 90), geometries(), st.integers(0, 10_000))
@settings(max_examples=60)
def test_the_smallest_tile_that_is_good_enough(
    height: int, width: int, geometry: dict[str, Any], max_pixels: int
) -> None:
    """A search of all tiles finds none that is smaller or computes less."""
    smallest, step = geometry["tile_size"], geometry["tile_step"]
    frame = [-(-side // step) * step for side in (height, width)]

    def judge(tile: tuple[int, int]) -> tuple[int, int]:
        """Return how many pixels the largest window has, and all windows together."""
        window = min(tile[0], frame[0]) * min(tile[1], frame[1])
        return window, count_work(height, width, **{**geometry, "tile_size": tile})

    area, work = judge(choose(height, width, geometry, max_pixels)[0])
    every = itertools.product(*(range(smallest, min(max(smallest, side), 8 * smallest) + 1, step) for side in frame))
    found = [judge(tile) for tile in every]
    found = [one for one in found if one[0] <= max(max_pixels, judge((smallest, smallest))[0])]
    good = [one for one in found if one[1] <= MAX_OVERLAP * height * width]
    assert (area, work) == (min(good) if good else min(found, key=lambda one: (one[1], one[0])))


@pytest.mark.parametrize(
    ("size", "megapixels", "tile"),
    [
        ((1, 1), 4, (512, 512)),
        ((512, 512), 4, (512, 512)),
        ((600, 500), 4, (640, 512)),
        ((3000, 4000), 4, (1600, 2112)),
        ((4000, 3000), 4, (2112, 1600)),
        ((2604, 4624), 4, (1408, 2432)),
        ((3000, 4000), 0.5, (640, 768)),
        ((3000, 4000), 0, (512, 512)),
        ((1, 64_000_000), 4, (512, 4096)),
    ],
)
def test_tiles_of_large_pictures_are_larger(size: tuple[int, int], megapixels: float, tile: tuple[int, int]) -> None:
    geometry = {"tile_size": 512, "tile_step": 64, "halo": 80, "multiple": 8}
    assert choose_tile_size(*size, **geometry, max_pixels=megapixels * 1e6) == tile


def test_few_tiles_are_tried_where_steps_are_small() -> None:
    geometry = {"tile_size": 512, "tile_step": 1, "halo": 20, "multiple": 1}
    tile, work = choose(8000, 8000, geometry, 4e6)
    assert work <= MAX_OVERLAP * 8000**2
    assert max(tile) < 600


@given(st.integers(1, 300), st.integers(1, 300), geometries())
@settings(max_examples=60)
def test_no_more_tiles_than_the_largest_size_needs(height: int, width: int, geometry: dict[str, Any]) -> None:
    inner = geometry["tile_size"] - 2 * (-(-geometry["halo"] // geometry["multiple"]) * geometry["multiple"])
    plan = make_plan(height, width, **geometry)
    assert len(plan.tiles) <= -(-height // inner) * -(-width // inner)
    assert plan == make_plan(height, width, **geometry)


@pytest.mark.parametrize(
    ("side", "windows"),
    [
        (1, [(0, 64)]),
        (321, [(0, 384)]),
        (512, [(0, 512)]),
        (513, [(0, 512), (320, 576)]),
        (640, [(0, 512), (320, 640)]),
        (2000, [(0, 512), (352, 864), (704, 1216), (1056, 1568), (1408, 1920), (1728, 2048)]),
    ],
)
def test_windows_are_flush_with_the_picture_and_no_larger_than_needed(
    side: int, windows: list[tuple[int, int]]
) -> None:
    plan = make_plan(1, side, tile_size=512, tile_step=64, halo=80, multiple=8)
    assert [(tile.window.left, tile.window.right) for tile in plan.tiles] == windows


@given(st.integers(1, 70), st.integers(1, 70), geometries(), st.integers(1, 4), st.sampled_from([np.uint8, np.uint16]))
@settings(max_examples=60)
def test_the_identity_network_returns_the_picture(
    height: int, width: int, geometry: dict[str, Any], scale: int, dtype: type
) -> None:
    pixels = noise(height, width, dtype=dtype)
    plan = make_plan(height, width, **geometry, scale=scale)
    result = run(plan, pixels, enlarge(scale), dtype)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, pixels.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("radius", "halo", "step", "tile"), [(1, 1, 8, 16), (4, 4, 3, 24), (4, 7, 20, 40), (2, 9, 1, 20)]
)
def test_a_convolution_within_the_halo_is_the_same_tiled_and_untiled(
    size: tuple[int, int], radius: int, halo: int, step: int, tile: int
) -> None:
    pixels = noise(*size)
    network = convolution(radius)
    tiled = run(make_plan(*size, tile_size=tile, tile_step=step, halo=halo, multiple=1), pixels, network)
    whole = make_plan(*size, tile_size=step * 400, tile_step=step, halo=halo, multiple=1)
    assert len(whole.tiles) == 1
    np.testing.assert_allclose(tiled, run(whole, pixels, network), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_network_on_a_grid_is_the_same_tiled_and_untiled(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    tiled = run(make_plan(*size, tile_size=48, tile_step=24, halo=8, multiple=8), pixels, pool(8))
    whole = make_plan(*size, tile_size=480, tile_step=24, halo=8, multiple=8)
    assert len(whole.tiles) == 1
    np.testing.assert_array_equal(tiled, run(whole, pixels, pool(8)))


def test_one_tile_is_the_picture_and_nothing_else_where_its_sides_are_whole_steps() -> None:
    """A network meets the borders in the service as it does when it runs on the whole picture."""
    pixels = noise(48, 72)
    network = convolution(3)
    tiled = run(make_plan(48, 72, tile_size=48, tile_step=24, halo=3, multiple=1), pixels, network)
    alone = network((pixels / np.float32(255))[None])[0]
    np.testing.assert_allclose(tiled, alone, rtol=0, atol=1e-6)


def test_a_halo_that_is_too_small_changes_the_result() -> None:
    """The comparisons above can fail: if the receptive field exceeds the halo, the results differ."""
    pixels = noise(60, 60)
    tiled = run(make_plan(60, 60, tile_size=16, tile_step=4, halo=1, multiple=1), pixels, convolution(4))
    whole = run(make_plan(60, 60, tile_size=60, tile_step=4, halo=1, multiple=1), pixels, convolution(4))
    assert np.abs(tiled - whole).max() > 1e-3


def test_reflection_is_that_of_numpy() -> None:
    pixels = noise(9, 11)
    plan = make_plan(9, 11, tile_size=24, tile_step=12, halo=4, multiple=4)
    (tile,) = plan.tiles
    expected = np.pad(pixels, ((0, 3), (0, 1), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(cut(pixels, plan, tile.window)[0], expected / np.float32(255))


def test_results_are_clipped_and_rounded() -> None:
    plan = make_plan(1, 4, tile_size=4, tile_step=1, halo=0, multiple=1)
    canvas = Canvas(plan, 1, np.uint8)
    values = np.zeros((1, 1, 4, 1), np.float32)
    values[0, 0, :, 0] = [-0.5, 1.5, 0.5019, 0.4981]
    canvas.add(plan.tiles[0], values)
    assert canvas.result()[0, :, 0].tolist() == [0, 255, 128, 127]


def test_floating_point_is_unchanged() -> None:
    plan = make_plan(2, 2, tile_size=2, tile_step=1, halo=0, multiple=1)
    pixels = np.array([[-1.0, 2.0], [0.25, 7.5]], np.float32)[..., None]
    np.testing.assert_array_equal(run(plan, pixels, identity), pixels)


def test_a_missing_repeated_misshapen_or_infinite_tile_is_an_error() -> None:
    pixels = noise(20, 10)
    plan = make_plan(20, 10, tile_size=10, tile_step=10, halo=0, multiple=1)
    canvas = Canvas(plan, 3, np.uint8)
    canvas.add(plan.tiles[0], cut(pixels, plan, plan.tiles[0].window))
    with pytest.raises(ValueError, match="1 of 2 tiles"):
        canvas.result()
    with pytest.raises(ValueError, match="already added"):
        canvas.add(plan.tiles[0], cut(pixels, plan, plan.tiles[0].window))
    with pytest.raises(ValueError, match="shape"):
        canvas.add(plan.tiles[1], cut(pixels, plan, plan.tiles[1].window)[:, 1:])
    with pytest.raises(FloatingPointError):
        canvas.add(plan.tiles[1], np.full((1, 10, 10, 3), np.nan, np.float32))
    canvas.add(plan.tiles[1], cut(pixels, plan, plan.tiles[1].window))
    np.testing.assert_array_equal(canvas.result(), pixels)


def test_sizes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="margin of 8"):
        make_plan(10, 10, tile_size=16, tile_step=8, halo=8, multiple=1)
    with pytest.raises(ValueError, match="tile_step 4 and multiple 8"):
        make_plan(10, 10, tile_size=20, tile_step=4, halo=0, multiple=8)
    with pytest.raises(ValueError, match=r"tile_size \(16, 20\), tile_step 8"):
        make_plan(10, 10, tile_size=(16, 20), tile_step=8, halo=0, multiple=8)
    with pytest.raises(ValueError, match="tile_size 20, tile_step 8"):
        make_plan(10, 10, tile_size=20, tile_step=8, halo=0, multiple=8)
    with pytest.raises(ValueError, match="at least 1"):
        make_plan(0, 10, tile_size=20, tile_step=1, halo=0, multiple=1)
    plan = make_plan(10, 10, tile_size=16, tile_step=16, halo=0, multiple=1)
    with pytest.raises(ValueError, match="10×10"):
        cut(noise(10, 11), plan, plan.tiles[0].window)
