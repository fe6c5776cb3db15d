"""What spoils a picture spoils it as it says: spreads, kinds, ranges, and the same for the same seed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def flat(value: float, count: int = 64, size: int = 32) -> np.ndarray:
    return np.full((count, size, size, 3), value, np.float32)


def spoiled(kind: str, clean: np.ndarray, seed: int = 0, **options: Any) -> np.ndarray:
    import keras

    from training.data import degradations

    degrade: Callable[..., Any] = getattr(degradations, kind)
    return keras.ops.convert_to_numpy(degrade(clean, keras.random.SeedGenerator(seed), **options))


def neighbors(noise: np.ndarray) -> float:
    """Return the correlation of horizontal neighbors."""
    return float(np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1])


@pytest.mark.parametrize("kind", ["gaussian_noise", "smeared_noise"])
def test_the_same_seed_is_the_same_noise(kind: str) -> None:
    clean = flat(0.5, count=4)
    np.testing.assert_array_equal(spoiled(kind, clean, 5), spoiled(kind, clean, 5))
    assert (spoiled(kind, clean, 5) != spoiled(kind, clean, 6)).any()


@pytest.mark.parametrize("kind", ["gaussian_noise", "smeared_noise"])
def test_a_generator_goes_on(kind: str) -> None:
    import keras

    from training.data import degradations

    seed = keras.random.SeedGenerator(0)
    first, second = (keras.ops.convert_to_numpy(getattr(degradations, kind)(flat(0.5, 4), seed)) for _ in range(2))
    assert (first != second).any()


def test_level_one_is_seventy_five_of_255_whatever_the_kind() -> None:
    from training.data.degradations import level_of

    clean = flat(0.5, count=3)
    degraded = clean.copy()
    degraded[1] += 75 / 255
    degraded[2, ::2] += 30 / 255
    levels = np.asarray(level_of(degraded, clean))
    assert levels.shape == (3, 1, 1, 1)
    np.testing.assert_allclose(levels.ravel(), [0, 1, 0.4 / np.sqrt(2)], atol=1e-6)


def test_gaussian_noise_is_white_unclipped_and_of_every_deviation() -> None:
    noise = spoiled("gaussian_noise", flat(0.0, count=256)) - flat(0.0, count=256)
    deviations = noise.std(axis=(1, 2, 3)) * 255
    # Evenly from 0 to 60.
    np.testing.assert_allclose(np.quantile(deviations, [0.25, 0.5, 0.75]), [15, 30, 45], atol=5)
    assert deviations.max() < 63
    assert (noise < 0).mean() == pytest.approx(0.5, abs=0.01)
    assert abs(neighbors(noise)) < 0.01
    loud = spoiled("gaussian_noise", flat(0.0, count=256), highest=10 / 255)
    assert loud.std(axis=(1, 2, 3)).max() * 255 < 10.5


def test_smeared_noise_is_eight_bit_rises_with_brightness_and_is_smeared_and_colored() -> None:
    clean = np.concatenate([flat(0.2, count=256), flat(0.7, count=256)], axis=2)
    found = spoiled("smeared_noise", clean)
    np.testing.assert_allclose(found * 255, np.rint(found * 255), atol=1e-4)
    assert found.min() >= 0
    assert found.max() <= 1
    noise = found - clean
    dark, bright = noise[:, :, :32], noise[:, :, 32:]
    assert bright.std() > 1.05 * dark.std()
    # Files differ: most are quiet, some are loud, as with a camera.
    deviations = dark.std(axis=(1, 2, 3)) * 255
    assert np.median(deviations) < 18
    assert np.quantile(deviations, 0.1) < 4
    assert deviations.max() > 25
    assert neighbors(bright) > 0.1
    between = np.corrcoef(bright[..., 0].ravel(), bright[..., 1].ravel())[0, 1]
    assert 0.2 < between < 0.9


def test_smearing_keeps_a_color_apart_and_its_sum() -> None:
    import keras

    from training.data.degradations import _smear

    point = np.zeros((1, 7, 7, 3), np.float32)
    point[0, 3, 3, 1] = 1
    found = keras.ops.convert_to_numpy(_smear(point, (1, 4, 6, 4, 1)))
    assert not found[..., [0, 2]].any()
    assert found.sum() == pytest.approx(1, abs=1e-6)
    # What smeared_noise divides by is the spread that white noise is left with.
    assert np.sqrt(np.square(found).sum()) == pytest.approx(0.2734375, abs=1e-6)
    found = keras.ops.convert_to_numpy(_smear(point, (1, 2, 1)))
    assert np.sqrt(np.square(found).sum()) == pytest.approx(0.375, abs=1e-6)


def test_eight_bit() -> None:
    from training.data.degradations import eight_bit

    values = np.array([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 200.4 / 255, 1.0, 1.7], np.float32)
    np.testing.assert_allclose(np.asarray(eight_bit(values)) * 255, [0, 0, 0, 1, 200, 255, 255], atol=1e-4)


def photograph() -> np.ndarray:
    """Return something like a photograph, uint8 (96, 96, 3): soft shapes and fine grain."""
    random = np.random.default_rng(0)
    shapes = cv2.resize(random.random((12, 12, 3)), (96, 96), interpolation=cv2.INTER_CUBIC)
    return np.clip(255 * (shapes + random.normal(0, 0.04, shapes.shape)), 0, 255).astype(np.uint8)


def steps(picture: np.ndarray, offset: int) -> float:
    """Return the mean step between columns whose left one lies at `offset` in its block of eight."""
    jumps = np.abs(np.diff(picture.astype(float), axis=1)).mean(axis=(0, 2))
    return float(jumps[offset::8].mean())


def test_jpeg_leaves_blocks() -> None:
    from training.data.degradations import jpeg

    smooth = cv2.resize(photograph()[:12, :12], (96, 96), interpolation=cv2.INTER_CUBIC)
    coded = [jpeg(smooth, np.random.default_rng(seed), 10, 10) for seed in range(8)]
    at_edges, inside = (np.mean([steps(picture, offset) for picture in coded]) for offset in (7, 3))
    assert at_edges > 1.5 * inside
    assert steps(smooth, 7) < 1.2 * steps(smooth, 3)


def test_jpeg_keeps_the_picture_its_colors_and_its_type() -> None:
    from training.data.degradations import jpeg

    clean = photograph()
    clean[..., 2] //= 4
    for seed in range(4):
        coded = jpeg(clean, np.random.default_rng(seed))
        assert (coded.dtype, coded.shape) == (np.uint8, clean.shape)
        assert coded.flags.c_contiguous
        np.testing.assert_allclose(coded.mean(axis=(0, 1)), clean.mean(axis=(0, 1)), atol=2.5)
        assert 0 < np.sqrt(np.square(coded.astype(float) - clean).mean()) < 25


def test_jpeg_is_worse_at_lower_quality_and_the_same_for_the_same_seed() -> None:
    from training.data.degradations import jpeg

    clean = photograph()

    def error(lowest: int, highest: int) -> float:
        found = [jpeg(clean, np.random.default_rng(seed), lowest, highest) for seed in range(12)]
        return float(np.mean([np.square(one.astype(float) - clean).mean() for one in found]))

    assert error(20, 30) > error(80, 90)
    np.testing.assert_array_equal(jpeg(clean, np.random.default_rng(3)), jpeg(clean, np.random.default_rng(3)))


def test_without_noise_jpeg_is_what_another_encoder_makes() -> None:
    """Half of the crops get no noise: those are, nearly, what Pillow's encoder makes at the same quality."""
    from training.data.degradations import jpeg

    clean = photograph()
    likes = []
    for subsampling in (0, 2):
        file = io.BytesIO()
        Image.fromarray(clean).save(file, "JPEG", quality=50, subsampling=subsampling)
        likes.append(np.asarray(Image.open(file)).astype(float))
    coded = [jpeg(clean, np.random.default_rng(seed), 50, 50).astype(float) for seed in range(16)]
    apart = [min(np.abs(one - like).mean() for like in likes) for one in coded]
    assert 3 <= sum(value < 1.0 for value in apart) <= 13


def test_correlation_is_nothing_for_white_noise_and_one_for_blocks() -> None:
    from training.data.degradations import correlation_of

    random = np.random.default_rng(0)
    clean = flat(0.5, count=3)
    white = random.normal(0, 0.1, clean.shape[1:]).astype(np.float32)
    blocks = white[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
    found = np.asarray(correlation_of(clean + np.stack([white, blocks, 0 * white]), clean))
    assert found.shape == (3, 1, 1, 1)
    np.testing.assert_allclose(found.ravel(), [0, 1, 0], atol=0.03)


def test_sharpening_adds_detail_and_leaves_flat_places() -> None:
    from training.data.degradations import sharpen

    picture = photograph()
    detail = [np.abs(np.diff(sharpen(picture, amount).astype(int), axis=0)).mean() for amount in (0.0, 0.5, 1.5)]
    assert sorted(detail) == detail
    np.testing.assert_array_equal(sharpen(picture, 0.0), picture)
    np.testing.assert_array_equal(sharpen(np.full_like(picture, 90), 2.0), 90)
