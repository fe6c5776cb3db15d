"""Batch normalization is folded into convolutions, and taken apart again to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tf,
    # What Keras does with a TensorFlow variable under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def build():  # type: ignore[no-untyped-def]
    """Return a small network whose batch normalization has statistics of its own."""
    import keras

    from training.architectures import mobilenet_v2

    image = keras.Input((None, None, 3), name="image")
    network = keras.Model({"image": image}, {"features": mobilenet_v2.features(image, groups=3)[4]})
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    return network


def test_a_folded_network_answers_as_before_without_normalization() -> None:
    import keras

    from training.export.folding import fold

    network = build()
    folded = fold(network)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers)
    image = {"image": np.random.default_rng(1).random((2, 64, 64, 3), np.float32)}
    expected = network(image)["features"].numpy()
    np.testing.assert_allclose(folded(image)["features"].numpy(), expected, atol=1e-4)


def test_a_network_without_normalization_is_left_as_it_is() -> None:
    import keras

    from training.export.folding import fold

    image = keras.Input((None, None, 3), name="image")
    network = keras.Model({"image": image}, {"image": keras.layers.Conv2D(3, 3, padding="same")(image)})
    assert fold(network) is network


def test_normalization_of_what_others_use_too_stays() -> None:
    import keras

    from training.export.folding import fold

    image = keras.Input((None, None, 3), name="image")
    found = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(image)
    both = keras.layers.BatchNormalization()(found) + found
    network = keras.Model({"image": image}, {"image": both})
    assert fold(network) is network


def test_training_goes_on_from_a_folded_model(tmp_path: Path) -> None:

    from training.checkpoints import load_initial_weights
    from training.export.folding import fold
    from training.export.savedmodel import save

    network = build()
    save({"part": fold(network)}, tmp_path / "model")
    again = build()
    for layer in again.layers:
        layer.set_weights([value + 0.1 for value in layer.get_weights()])
    load_initial_weights(again, tmp_path / "model", "part")
    image = {"image": np.random.default_rng(1).random((2, 64, 64, 3), np.float32)}
    expected = network(image)["features"].numpy()
    np.testing.assert_allclose(again(image)["features"].numpy(), expected, atol=1e-4)
