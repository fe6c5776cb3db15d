"""Edges that follow the picture, and the colours of what is cut out."""

from __future__ import annotations

import numpy as np
import pytest

from app.imaging import mask


def disc(height: int, width: int) -> np.ndarray:
    """Return a disc of the middle, float32 (height, width) of 0 and 1."""
    y, x = np.mgrid[:height, :width]
    return (np.hypot(y - height / 2, x - width / 2) < min(height, width) * 0.3).astype(np.float32)


def enlarged(found: np.ndarray, guide: np.ndarray, pixels: np.ndarray, strip: int | None = None) -> np.ndarray:
    guided = mask.fit(found, guide)
    height, width = pixels.shape[:2]
    rows = [slice(top, min(top + strip, height)) for top in range(0, height, strip)] if strip else [slice(0, height)]
    return np.concatenate([mask.apply(guided, pixels[one], one, (height, width)) for one in rows])


def test_edges_follow_the_picture() -> None:
    """A coarse, soft answer at an eighth of the size becomes a sharp edge where the picture has one."""
    truth = disc(256, 320)
    pixels = np.where(truth[..., None] > 0, [200, 80, 40], [30, 90, 160]).astype(np.uint8)
    small = pixels[4::8, 4::8].astype(np.float32) / 255
    coarse = truth.reshape(32, 8, 40, 8).mean(axis=(1, 3))
    coarse = np.pad(coarse, 1, mode="edge")
    coarse = (coarse[1:-1, 1:-1] + coarse[:-2, 1:-1] + coarse[2:, 1:-1] + coarse[1:-1, :-2] + coarse[1:-1, 2:]) / 5
    found = enlarged(coarse[..., None].astype(np.float32), small, pixels)[..., 0]
    plain = coarse.repeat(8, 0).repeat(8, 1)
    assert ((found > 0.5) != (truth > 0.5)).mean() < 0.25 * ((plain > 0.5) != (truth > 0.5)).mean()


def test_strips_are_what_the_whole_is() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 65536, (203, 117, 1), dtype=np.uint16)
    found, guide = random.random((24, 16, 3), np.float32), random.random((24, 16, 3), np.float32)
    whole = enlarged(found, guide, pixels)
    assert whole.shape == (203, 117, 3)
    np.testing.assert_array_equal(enlarged(found, guide, pixels, strip=64), whole)


@pytest.mark.parametrize(("width", "most"), [(1, 256), (4096, 256), (8192, 128), (10**6, 16)])
def test_a_strip_of_a_wide_picture_has_fewer_rows(width: int, most: int) -> None:
    found = list(mask.strips(600, width))
    assert [row for rows in found for row in range(rows.start, rows.stop)] == list(range(600))
    assert found[0] == slice(0, most)
    assert next(mask.strips(600, width, least=300)) == slice(0, 300)


def test_what_is_certain_stays_certain() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    guide = np.random.default_rng(3).random((16, 16, 3), np.float32)
    for value in (0.0, 1.0):
        found = enlarged(np.full((16, 16, 1), value, np.float32), guide, pixels)
        np.testing.assert_allclose(found, value, atol=1e-4)


def test_a_class_that_is_nowhere_changes_nothing() -> None:
    random = np.random.default_rng(4)
    found, guide = random.random((20, 24, 3), np.float32), random.random((20, 24, 3), np.float32)
    pixels = random.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    found[..., 1] = 0.01
    with_it = enlarged(found, guide, pixels)
    assert (with_it[..., 1] == 0).all()
    np.testing.assert_allclose(with_it[..., [0, 2]], enlarged(found[..., [0, 2]], guide, pixels), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 1)])
def test_any_size_of_picture(size: tuple[int, int]) -> None:
    found = enlarged(
        np.full((16, 16, 2), 0.5, np.float32), np.zeros((16, 16, 3), np.float32), np.zeros((*size, 3), np.uint8)
    )
    assert found.shape == (*size, 2)


@pytest.mark.parametrize(
    ("threshold", "opaque"), [(0.5, [0, 0.5, 1]), (0.9, [0, 0, 1]), (0.0, [1, 1, 1]), (1.0, [0, 0, 1])]
)
def test_alpha_is_a_ramp_around_the_threshold(threshold: float, opaque: list[float]) -> None:
    alpha = mask.alpha_of(np.array([0.0, 0.5, 1.0], np.float32), threshold)
    np.testing.assert_allclose(alpha, opaque, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_opacity_is_in_between_only_near_an_edge(dtype: type) -> None:
    white = np.iinfo(dtype).max
    unsure = np.zeros((60, 200), dtype)
    unsure[:, 40:80] = 0.3 * white  # something behind
    unsure[:, 80:90] = np.linspace(0.3, 0.9, 10) * white
    unsure[:, 90:150] = 0.7 * white  # something in front
    unsure[:, 150:] = white
    found = mask.decided(unsure, 8)
    assert found.dtype == dtype
    assert (found[:, :70] == 0).all()
    assert (found[:, 100:] == white).all()
    np.testing.assert_array_equal(found[:, 80:90], unsure[:, 80:90])
    for certain in (0, white):
        whole = np.full((30, 30), certain, dtype)
        np.testing.assert_array_equal(mask.decided(whole, 8), whole)


def test_the_background_leaves_the_edge() -> None:
    """A red disc on blue with a soft edge: mixtures come back red, and what is opaque stays as it was."""
    alpha = np.clip(20 * (0.3 - np.hypot(*(np.mgrid[:120, :120] / 120 - 0.5))) + 0.5, 0, 1).astype(np.float32)
    red, blue = np.array([0.8, 0.1, 0.1], np.float32), np.array([0.1, 0.2, 0.9], np.float32)
    pixels = alpha[..., None] * red + (1 - alpha[..., None]) * blue
    found = mask.without_background(pixels, alpha, 8)
    edge = (alpha > 0.05) & (alpha < 1)
    assert np.abs(found[edge] - red).max() < 0.05 < np.abs(pixels[edge] - red).max()
    np.testing.assert_array_equal(found[alpha == 1], pixels[alpha == 1])


def test_inverses_hold_where_a_window_has_two_colours() -> None:
    colour = np.random.default_rng(5).normal(0, 0.3, (50, 50, 3, 1)).astype(np.float32)
    matrices = colour @ colour.swapaxes(-1, -2) + 1e-3 * np.eye(3, dtype=np.float32)
    exact = np.linalg.inv(matrices.astype(np.float64))
    np.testing.assert_allclose(mask._inverse(matrices), exact, rtol=1e-5, atol=1e-3)
