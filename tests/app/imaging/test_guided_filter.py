"""The guided filter: edges follow the picture, and the result does not depend on strips."""

from __future__ import annotations

import numpy as np
import pytest

from app.imaging import guided_filter


def disc(height: int, width: int) -> np.ndarray:
    """Return a centered disc, float32 (height, width) of 0 and 1."""
    y, x = np.mgrid[:height, :width]
    return (np.hypot(y - height / 2, x - width / 2) < min(height, width) * 0.3).astype(np.float32)


def upsample(found: np.ndarray, guide: np.ndarray, pixels: np.ndarray, strip: int | None = None) -> np.ndarray:
    guided = guided_filter.fit(found, guide)
    height, width = pixels.shape[:2]
    rows = [slice(top, min(top + strip, height)) for top in range(0, height, strip)] if strip else [slice(0, height)]
    return np.concatenate([guided_filter.apply(guided, pixels[one], one, (height, width)) for one in rows])


def test_edges_follow_the_picture() -> None:
    """Coarse probabilities at an eighth of the size get a sharp edge where the picture has one."""
    truth = disc(256, 320)
    pixels = np.where(truth[..., None] > 0, [200, 80, 40], [30, 90, 160]).astype(np.uint8)
    small = pixels[4::8, 4::8].astype(np.float32) / 255
    coarse = truth.reshape(32, 8, 40, 8).mean(axis=(1, 3))
    coarse = np.pad(coarse, 1, mode="edge")
    coarse = (coarse[1:-1, 1:-1] + coarse[:-2, 1:-1] + coarse[2:, 1:-1] + coarse[1:-1, :-2] + coarse[1:-1, 2:]) / 5
    found = upsample(coarse[..., None].astype(np.float32), small, pixels)[..., 0]
    plain = coarse.repeat(8, 0).repeat(8, 1)
    assert ((found > 0.5) != (truth > 0.5)).mean() < 0.25 * ((plain > 0.5) != (truth > 0.5)).mean()


def test_strips_equal_the_whole() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 65536, (203, 117, 1), dtype=np.uint16)
    found, guide = random.random((24, 16, 3), np.float32), random.random((24, 16, 3), np.float32)
    whole = upsample(found, guide, pixels)
    assert whole.shape == (203, 117, 3)
    np.testing.assert_array_equal(upsample(found, guide, pixels, strip=64), whole)


@pytest.mark.parametrize(("width", "most"), [(1, 256), (4096, 256), (8192, 128), (10**6, 16)])
def test_a_strip_of_a_wide_picture_has_fewer_rows(width: int, most: int) -> None:
    found = list(guided_filter.split_rows(600, width))
    assert [row for rows in found for row in range(rows.start, rows.stop)] == list(range(600))
    assert found[0] == slice(0, most)
    assert next(guided_filter.split_rows(600, width, min_rows=300)) == slice(0, 300)


def test_probabilities_of_0_and_1_are_kept() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    guide = np.random.default_rng(3).random((16, 16, 3), np.float32)
    for value in (0.0, 1.0):
        found = upsample(np.full((16, 16, 1), value, np.float32), guide, pixels)
        np.testing.assert_allclose(found, value, atol=1e-4)


def test_a_class_without_pixels_changes_nothing() -> None:
    random = np.random.default_rng(4)
    found, guide = random.random((20, 24, 3), np.float32), random.random((20, 24, 3), np.float32)
    pixels = random.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    found[..., 1] = 0.01
    with_class = upsample(found, guide, pixels)
    assert (with_class[..., 1] == 0).all()
    np.testing.assert_allclose(with_class[..., [0, 2]], upsample(found[..., [0, 2]], guide, pixels), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 1)])
def test_any_size_of_picture(size: tuple[int, int]) -> None:
    found = upsample(
        np.full((16, 16, 2), 0.5, np.float32), np.zeros((16, 16, 3), np.float32), np.zeros((*size, 3), np.uint8)
    )
    assert found.shape == (*size, 2)


def test_a_window_of_two_flat_colors_is_solved_exactly() -> None:
    inside = np.zeros((30, 40), np.float32)
    inside[:, 20:] = 1
    colors = np.array([[0.31, 0.62, 0.93], [0.32, 0.6, 0.94]], np.float32)
    guide = colors[inside.astype(int)]
    found = guided_filter.smooth(inside, guide, np.ones(inside.shape, bool), radius=3, epsilon=1e-9)
    np.testing.assert_allclose(found, inside, atol=1e-4)


@pytest.mark.parametrize("size", [(5, 300), (300, 300), (129, 128)])
def test_smoothing_a_few_places_is_smoothing_everything_there(size: tuple[int, int]) -> None:
    random = np.random.default_rng(6)
    values, guide = random.random(size, np.float32), random.random((*size, 3), np.float32)
    where = random.random(size) < 0.001
    where[size[0] // 2, 120:128] = True
    everything = guided_filter.smooth(values, guide, np.ones(size, bool), radius=5, epsilon=1e-3)
    found = guided_filter.smooth(values, guide, where, radius=5, epsilon=1e-3)
    np.testing.assert_allclose(found[where], everything[where], atol=1e-4)
    assert not found[~where].any()


def test_smoothing_follows_the_guide_where_it_is_asked_for() -> None:
    guide = np.zeros((40, 60, 3), np.float32)
    guide[:, 30:] = (0.2, 0.9, 0.4)
    truth = (np.arange(60) >= 30).astype(np.float32)[None].repeat(40, 0)
    noisy = (truth + np.random.default_rng(0).normal(0, 0.2, truth.shape)).astype(np.float32)
    where = np.zeros((40, 60), bool)
    where[:, 20:40] = True
    found = guided_filter.smooth(noisy, guide, where, radius=3, epsilon=1e-4)
    assert np.abs(found - truth)[:, 20:40].mean() < 0.3 * np.abs(noisy - truth)[:, 20:40].mean()
    whole = guided_filter.fit(noisy[..., None], guide, radius=3, epsilon=1e-4)
    exact = (whole.slopes[..., 0, :] * guide).sum(axis=-1) + whole.intercepts[..., 0]
    np.testing.assert_allclose(found[:, 20:40], np.clip(exact, 0, 1)[:, 20:40], atol=2e-3)
    gray = guided_filter.smooth(noisy, guide[..., 1:2], where, radius=3, epsilon=1e-4)
    assert np.abs(gray - truth)[:, 20:40].mean() < 0.3 * np.abs(noisy - truth)[:, 20:40].mean()
