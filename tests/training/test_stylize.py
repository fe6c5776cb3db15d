"""What the networks for styles are taught with: Gram matrices, ramps, soft and noisy pictures."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.tf


def test_grams_are_compared_relative_to_those_that_are_wanted() -> None:
    from training.architectures.style_optimizer import grams
    from training.recipes.stylize_any import gram_distance

    random = np.random.default_rng(0)
    seen = {"fine": random.random((2, 8, 8, 4), np.float32), "coarse": random.random((2, 4, 4, 6), np.float32)}
    wanted = {name: grams(values) for name, values in seen.items()}
    assert float(gram_distance(seen, wanted)) == pytest.approx(0, abs=1e-10)
    nothing = {name: 0 * values for name, values in seen.items()}
    assert float(gram_distance(nothing, wanted)) == pytest.approx(1)
    # Where things are does not matter, only what occurs together.
    moved = {name: np.ascontiguousarray(values[:, ::-1]) for name, values in seen.items()}
    assert float(gram_distance(moved, wanted)) == pytest.approx(0, abs=1e-10)


def test_ramps_are_smooth_and_colored() -> None:
    from training.recipes.stylize_any import SIZE, draw_ramp

    ramps = [draw_ramp(SIZE, np.random.default_rng(seed)) for seed in range(8)]
    for ramp in ramps:
        assert (ramp.dtype, ramp.shape) == (np.uint8, (SIZE, SIZE, 3))
        assert np.abs(np.diff(ramp.astype(int), axis=0)).max() <= 6
    assert np.stack(ramps).std(axis=(1, 2)).mean() > 10


def test_noise_is_faint_and_differs_from_pixel_to_pixel() -> None:
    from training.recipes.stylize_any import NOISE, add_noise

    gray = np.full((64, 64, 3), 128, np.uint8)
    noise = np.stack([add_noise(gray, np.random.default_rng(seed)) for seed in range(20)]) - 128.0
    assert 0.4 < noise.std() < NOISE
    assert abs(noise.mean()) < 0.1


def test_weights_of_the_network_for_any_style_get_a_vector_more() -> None:
    from training.recipes.stylize_presets import PresetPainter

    part = PresetPainter()
    known = {"presets/0": np.ones((part.styles, 4), np.float32), "exit/1": np.zeros(3)}
    found = part.convert_weights(known)
    assert found["presets/0"].shape == (part.styles + 1, 4)
    assert not found["presets/0"][-1].any()
    assert part.convert_weights(found) is found


def test_pictures_are_soft_and_noisy_now_and_then() -> None:
    from training.recipes.stylize_any import SIZE, draw_picture

    texture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    drawn = [draw_picture([texture], SIZE, np.random.default_rng(seed)) for seed in range(60)]
    contrast = np.array([float(np.abs(np.diff(picture.astype(int), axis=0)).mean()) for picture in drawn])
    assert {(picture.dtype, picture.shape) for picture in drawn} == {(np.dtype(np.uint8), (SIZE, SIZE, 3))}
    assert 3 <= np.count_nonzero(contrast < np.median(contrast) / 2) <= 25


def test_colors_of_presets_are_never_permuted() -> None:
    from training.recipes.stylize_any import STYLE_SIZE, draw_style

    painting, preset = (np.zeros((STYLE_SIZE, STYLE_SIZE, 3), np.uint8) for _ in range(2))
    painting[..., 0], preset[..., 2] = 200, 100
    drawn = [draw_style([painting], [preset], np.random.default_rng(seed)) for seed in range(80)]
    colors = {tuple(picture.max(axis=(0, 1)).tolist()) for picture in drawn}
    assert colors == {(200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 100)}
