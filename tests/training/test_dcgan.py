"""The DCGAN: its halves, and one step in which each follows its own loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.mark.parametrize(("size", "channels", "first"), [(28, 1, 7), (64, 3, 4)])
def test_halves_share_nothing_and_fit_each_other(size: int, channels: int, first: int) -> None:
    from training.architectures import dcgan

    network = dcgan.build(size, channels, width=4)
    generator, discriminator = dcgan.halves(network)
    z = np.random.default_rng(0).standard_normal((3, 1, 1, dcgan.LATENT), np.float32)
    pictures = generator(z)
    assert pictures.shape == (3, size, size, channels)
    assert float(np.min(pictures)) >= 0
    assert float(np.max(pictures)) <= 1
    assert discriminator(pictures).shape == (3, 1, 1, 1)
    assert network.get_layer("generator_0").kernel.shape[:2] == (first, first)
    names = [{layer.name for layer in half.layers if layer.weights} for half in (generator, discriminator)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == {layer.name for layer in network.layers if layer.weights}


def gradients(network: Any, loss: Any) -> dict[str, np.ndarray]:
    """Return the gradient of `loss()` by variable."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    found = tape.gradient(value, [variable.value for variable in network.trainable_variables])
    return {
        v.path: np.zeros(v.shape) if g is None else g.numpy()
        for v, g in zip(network.trainable_variables, found, strict=True)
    }


def test_each_half_follows_its_own_loss() -> None:
    import keras
    from keras import ops

    from training.architectures import dcgan
    from training.recipes.dcgan_digits import DigitsGan

    keras.utils.set_random_seed(0)
    network = dcgan.build(28, 1, width=4)
    generator, discriminator = dcgan.halves(network)
    real = np.random.default_rng(0).random((8, 28, 28, 1), np.float32)
    together = gradients(network, lambda: DigitsGan().loss(network, {"image": real}, keras.random.SeedGenerator(5)))
    z = keras.random.normal((8, 1, 1, dcgan.LATENT), seed=keras.random.SeedGenerator(5))

    def of_discriminator() -> Any:
        made, given = discriminator(generator(z, training=True), training=True), discriminator(real, training=True)
        return ops.mean(0.9 * ops.softplus(-given) + 0.1 * ops.softplus(given)) + ops.mean(ops.softplus(made))

    def of_generator() -> Any:
        return ops.mean(ops.softplus(-discriminator(generator(z, training=True), training=True)))

    for half, alone in (
        (discriminator, gradients(network, of_discriminator)),
        (generator, gradients(network, of_generator)),
    ):
        for variable in half.trainable_variables:
            np.testing.assert_allclose(together[variable.path], alone[variable.path], atol=1e-5, err_msg=variable.path)
        assert any(np.abs(alone[variable.path]).max() > 1e-3 for variable in half.trainable_variables)


def test_distance_is_small_between_likes() -> None:
    from training.recipes.dcgan_digits import distance

    random = np.random.default_rng(0)
    dark, other, light = (random.random((200, 8, 8, 1), np.float32) * scale for scale in (0.5, 0.5, 1.0))
    assert distance(dark, dark) == 0
    assert distance(dark, other) < distance(dark, light) / 3
