"""What a camera adds to a picture: noise of its sensor, developed as files are, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from training.data import camera
from training.data.camera import Camera

QUIET = Camera(0, 0, (2.0, 1.0, 1.5), 2.2, demosaic=True, smooth=0, sharpen=0, scale=1.0, qualities=())


def flat(value: int, size: int = 128) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def noise(made: Camera, picture: np.ndarray, seed: int = 0) -> np.ndarray:
    return camera.noise_of(picture, made, np.random.default_rng(seed)) * 255


def neighbors(found: np.ndarray) -> float:
    """Return the correlation of horizontal neighbors."""
    return float(np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1])


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_without_noise_a_picture_stays_as_it_is(scale: float) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    made = QUIET._replace(scale=scale, smooth=1.0, sharpen=0.5)
    np.testing.assert_array_equal(camera.take(picture, made, np.random.default_rng(0)), picture)


def test_the_same_seed_is_the_same_picture() -> None:
    picture = flat(90)
    first, second, other = (
        camera.take(picture, camera.draw(np.random.default_rng(seed)), np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_noise_in_linear_light_is_strongest_in_the_dark_of_a_file() -> None:
    """Counts of light vary more where there is more light, but the tone curve stretches the dark."""
    made = QUIET._replace(shot=1e-4, demosaic=False)
    dark, bright = (noise(made, flat(value)).std() for value in (40, 200))
    assert dark > bright > 1
    read = QUIET._replace(read=0.01, demosaic=False)
    assert noise(read, flat(40)).std() > 3 * noise(read, flat(200)).std()


def test_white_balance_makes_red_and_blue_noisier() -> None:
    found = noise(QUIET._replace(read=0.01, demosaic=False), flat(120)).std(axis=(0, 1))
    assert found[0] > found[2] > found[1]


def test_demosaicing_and_smoothing_make_neighbors_alike() -> None:
    made = QUIET._replace(read=0.01)
    assert abs(neighbors(noise(made._replace(demosaic=False), flat(120)))) < 0.02
    assert neighbors(noise(made, flat(120))) > 0.3
    assert neighbors(noise(made._replace(smooth=1.5), flat(120))) > 0.5


def test_reduction_takes_noise_away() -> None:
    made = QUIET._replace(read=0.01)
    assert noise(made._replace(scale=2.0), flat(120)).std() < 0.9 * noise(made, flat(120)).std()


def test_every_encoder_leaves_its_damage() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    found = camera.take(picture, QUIET._replace(qualities=(80, 60)), np.random.default_rng(0))
    assert found.shape == picture.shape
    assert np.abs(found.astype(float) - picture).mean() > 1


def test_a_gray_file_is_gray() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    found = camera.take(picture, QUIET._replace(read=0.01, gray=True), np.random.default_rng(0))
    np.testing.assert_array_equal(found[..., 0], found[..., 1])
    np.testing.assert_array_equal(found[..., 0], found[..., 2])
    assert np.abs(found.astype(float) - camera.to_gray(picture)).mean() > 0.5


def test_drawn_cameras_are_quiet_and_loud() -> None:
    """Files differ: in most noise is hardly seen, in some little else is."""
    picture = np.random.default_rng(2).integers(60, 180, (8, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    random = np.random.default_rng(0)
    deviations = [noise(camera.draw(random), picture, seed).std() for seed in range(150)]
    low, middle, high = np.quantile(deviations, [0.1, 0.5, 0.95])
    assert low < 2.5
    assert 2 < middle < 10
    assert 15 < high < 60
