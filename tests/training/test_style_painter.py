"""The painter in parts: together they do what the whole does, and what they share is stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def network() -> Any:
    import keras

    from training.architectures import style_painter

    keras.utils.set_random_seed(0)
    return style_painter.build()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, height, width, 3), dtype=np.float32)


def called(network: Any, key: str, **inputs: np.ndarray) -> np.ndarray:
    return np.asarray(network(inputs)[key])


def test_the_parts_paint_what_the_whole_paints(network: Any) -> None:
    from training.architectures import style_painter

    parts = style_painter.split(network)
    image, style = picture(40, 64), picture(80, 68, 1)
    vector = called(parts["encode"], "vector", style=style)
    moments = called(parts["statistics"], "moments", image=image, vector=vector)
    painted = called(parts["paint"], "image", image=image, vector=vector, moments=moments)
    np.testing.assert_allclose(painted, called(network, "image", image=image, style=style), atol=1e-6)
    assert painted.shape == image.shape
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_every_weight_has_a_gradient_and_no_picture_minds_its_neighbors(network: Any) -> None:
    import tensorflow as tf

    images, styles = np.concatenate([picture(24, 32), picture(24, 32, 1)]), picture(64, 64, 2).repeat(2, axis=0)
    with tf.GradientTape() as tape:
        painted = network({"image": images, "style": styles}, training=True)["image"]
        loss = tf.reduce_mean(tf.square(painted - picture(24, 32, 3)))
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient.numpy()).all(), variable.path
        # A normalization takes out what a bias before it adds.
        normalized = variable.path.startswith(("down", "block", "up")) and variable.path.endswith("/bias")
        assert normalized or np.abs(gradient.numpy()).max() > 0, variable.path
    alone = called(network, "image", image=images[1:], style=styles[1:])
    np.testing.assert_allclose(np.asarray(painted)[1:], alone, atol=1e-5)


def test_presets_are_vectors_by_number() -> None:
    from training.architectures import style_painter

    vectors = np.random.default_rng(0).random((5, style_painter.VECTOR), dtype=np.float32)
    preset = style_painter.presets(vectors)
    found = called(preset, "vector", index=np.array([[4.0], [0.0]], np.float32))
    np.testing.assert_allclose(found, vectors[[4, 0]])


def test_a_network_for_presets_paints_each_in_its_learned_vector() -> None:
    from training.architectures import style_painter

    network = style_painter.build_for_presets(3)
    parts = style_painter.split(network)
    assert set(parts) == {"paint", "statistics", "preset"}
    image, index = picture(40, 64), np.array([[2.0]], np.float32)
    vector = called(parts["preset"], "vector", index=index)
    moments = called(parts["statistics"], "moments", image=image, vector=vector)
    painted = called(parts["paint"], "image", image=image, vector=vector, moments=moments)
    np.testing.assert_allclose(painted, called(network, "image", image=image, index=index), atol=1e-6)
    assert np.abs(painted - called(network, "image", image=image, index=0 * index)).max() > 1e-4


def test_what_networks_share_is_stored_once_and_can_be_started_from(network: Any, tmp_path: Path) -> None:
    import keras

    from training.architectures import style_painter
    from training.checkpoints import load_initial_weights
    from training.export.manifest import parameters
    from training.export.savedmodel import compare, save

    parts = style_painter.split(network)
    save(parts, tmp_path / "model")
    compare(parts, tmp_path / "model")
    assert parameters(parts) == network.count_params()
    stored = (tmp_path / "model/variables/variables.data-00000-of-00001").stat().st_size
    assert stored < 1.05 * 4 * network.count_params() + 2**17
    keras.utils.set_random_seed(1)
    other = style_painter.build()
    assert load_initial_weights(other, tmp_path / "model", "painter") == len(network.weights)
    for one, same in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_pixel_depends_on_nothing_further_than_the_halo(network: Any) -> None:
    from training.architectures import style_painter
    from training.recipes.stylize_any import HALO

    paint = style_painter.split(network)["paint"]
    image = picture(8, 4 * (HALO // 2))
    vector = np.random.default_rng(1).normal(size=(1, style_painter.VECTOR)).astype(np.float32)
    moments = np.zeros((1, *paint.input["moments"].shape[1:]), np.float32)
    changed = image.copy()
    changed[:, :, -1:] = 1 - changed[:, :, -1:]
    before = called(paint, "image", image=image, vector=vector, moments=moments)
    after = called(paint, "image", image=changed, vector=vector, moments=moments)
    apart = np.flatnonzero(np.abs(after - before).max(axis=(0, 1, 3)))
    assert apart.min() >= image.shape[2] - 1 - HALO
    assert apart.min() < image.shape[2] - HALO // 2
