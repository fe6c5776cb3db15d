"""Grain of a filling: as strong, as coarse and as colored as around the hole; none where there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from app.imaging import grain


def film(deviation: float, blur: float = 0.0, *, gray: bool = False, seed: int = 1) -> np.ndarray:
    """Return a ramp with noise of a deviation in 1/255, float32 (200, 240, channels) in [0, 1]."""
    channels = 1 if gray else 3
    noise = np.random.default_rng(seed).normal(0, 1, (200, 240, channels))
    if blur:
        noise = cv2.GaussianBlur(noise, (0, 0), blur).reshape(noise.shape)
        noise /= noise.std()
    ramp = np.linspace(0.3, 0.7, 240)[None, :, None]
    return np.asarray(ramp + noise * deviation / 255, np.float32)


def stroke() -> np.ndarray:
    """Return a mask of a wide stroke, bool (200, 240)."""
    missing = np.zeros((200, 240), bool)
    missing[80:110, 20:220] = True
    return missing


@pytest.mark.parametrize("deviation", [3, 8, 20])
def test_it_is_as_strong_as_around_the_hole(deviation: float) -> None:
    found = grain.measure(film(deviation), stroke())
    assert found is not None
    assert 255 * np.sqrt(found.covariance.diagonal()) == pytest.approx([deviation] * 3, rel=0.15)
    assert found.blur == 0


def test_it_is_as_coarse_as_around_the_hole() -> None:
    found = grain.measure(film(8, blur=1.2), stroke())
    assert found is not None
    assert found.blur == pytest.approx(1.2, rel=0.2)
    flat = np.full((200, 240, 3), 0.5, np.float32)
    grained = grain.add(flat, stroke(), found, 0, 0)[80:110, 20:220] - 0.5
    assert 255 * grained.std() == pytest.approx(8, rel=0.25)
    neighbors = np.corrcoef(grained[1:].ravel(), grained[:-1].ravel())[0, 1]
    assert neighbors == pytest.approx(np.exp(-0.25 / 1.2**2), abs=0.1)


def test_colors_that_go_together_stay_together() -> None:
    gray = np.repeat(film(8, gray=True), 3, axis=2)
    found = grain.measure(gray, stroke())
    assert found is not None
    grained = grain.add(np.full((200, 240, 3), 0.5, np.float32), stroke(), found, 0, 0)
    assert np.ptp(grained, axis=2).max() < 1 / 255


def test_texture_beside_a_flat_area_is_no_grain() -> None:
    picture = film(0)
    picture[:, 120:] += np.random.default_rng(0).normal(0, 0.1, (200, 120, 3)).astype(np.float32)
    found = grain.measure(picture, stroke())
    assert found is not None
    assert found.is_faint


def test_clipped_areas_do_not_hide_the_grain() -> None:
    picture = film(8)
    picture[:60] = 1.0
    found = grain.measure(picture, stroke())
    assert found is not None
    assert 255 * np.sqrt(found.covariance.diagonal()) == pytest.approx([8] * 3, rel=0.15)


def test_only_the_hole_changes_and_parts_agree() -> None:
    found = grain.measure(film(8), stroke())
    assert found is not None
    picture, missing = film(0), stroke()
    whole = grain.add(picture, missing, found, 0, 0)
    assert np.array_equal(whole[~missing], np.clip(picture, 0, 1)[~missing])
    part = grain.add(picture[60:130, 50:100], missing[60:130, 50:100], found, 60, 50)
    assert np.array_equal(part, whole[60:130, 50:100])


def test_too_little_around_the_hole_tells_nothing() -> None:
    assert grain.measure(film(8)[:12, :12], np.zeros((12, 12), bool)) is None
    assert grain.measure(film(8), np.ones((200, 240), bool)) is None
