"""The search in a DCGAN: it comes nearer from call to call, keeps what is known, and blends without a seam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def waves(height: int = 28, width: int = 28) -> np.ndarray:
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (0.3 + 0.2 * np.sin(6 * columns) + 0.2 * rows)[None, ..., None].astype(np.float32)


@pytest.mark.parametrize("box", [(6, 20, 3, 17), (0, 28, 0, 17), (13, 14, 13, 14)])
def test_blending_keeps_gradients_and_meets_what_is_known(box: tuple[int, int, int, int]) -> None:
    from training.architectures.latent_search import blended

    image, mask = waves(), np.zeros((1, 28, 28, 1), np.float32)
    mask[:, box[0] : box[1], box[2] : box[3]] = 1
    # A picture that differs by a constant has the same gradients: the answer is the picture itself.
    found = np.asarray(blended(image * (1 - mask), image + 0.2, mask))
    np.testing.assert_allclose(found, image, atol=1e-5)


@pytest.fixture(scope="module")
def search(networks: tuple[Any, Any]) -> Any:
    """Return the search as a graph: traced once, for the calls of all tests."""
    import tensorflow as tf

    free = {name: tf.TensorSpec([None, *tensor.shape[1:]]) for name, tensor in networks[1].input.items()}
    return tf.function(networks[1], input_signature=[free])


@pytest.fixture(scope="module")
def networks() -> tuple[Any, Any]:
    import keras

    from training.architectures import dcgan, latent_search

    keras.utils.set_random_seed(1)
    gan = dcgan.build(28, 1, width=4)
    for variable in gan.trainable_variables:
        if variable.name == "kernel":
            variable.assign(3 * variable)  # what an untrained generator makes is nearly flat
    return gan, latent_search.build(*dcgan.halves(gan))


def test_it_comes_nearer_to_what_the_generator_can_make(networks: tuple[Any, Any], search: Any) -> None:
    from training.architectures import dcgan, latent_search

    gan, _ = networks
    generator, _ = dcgan.halves(gan)
    z = np.random.default_rng(3).standard_normal((2, 1, 1, dcgan.LATENT)).astype(np.float32)
    true = np.asarray(generator(z, training=False))
    mask = np.zeros_like(true)
    mask[0, 8:16, 8:16] = mask[1, 2:8, 15:21] = 1
    state = np.zeros((2, latent_search.STARTS, 3, dcgan.LATENT), np.float32)
    step = np.zeros((2, 1), np.float32)
    errors = []
    for _ in range(8):
        answer = search({"image": true * (1 - mask), "mask": mask, "state": state, "step": step})
        found, state, step = (np.asarray(answer[key]) for key in ("image", "state", "step"))
        np.testing.assert_allclose(found[mask == 0], true[mask == 0], atol=1e-6)
        errors.append(np.abs(found - true)[mask > 0].mean())
    assert (step == 8 * latent_search.STEPS).all()
    assert errors[-1] < 0.8 * errors[0]


def test_pictures_of_a_batch_do_not_mix(search: Any) -> None:
    from training.architectures import dcgan, latent_search

    image = np.concatenate([waves(), 1 - waves()])
    mask = np.zeros_like(image)
    mask[0, 5:15, 5:15] = mask[1, 10:12] = 1
    given = {"image": image * (1 - mask), "mask": mask}
    state = np.zeros((2, latent_search.STARTS, 3, dcgan.LATENT), np.float32)
    both = search({**given, "state": state, "step": np.zeros((2, 1), np.float32)})
    alone = search(
        {**{key: one[1:] for key, one in given.items()}, "state": state[1:], "step": np.zeros((1, 1), np.float32)}
    )
    for key in ("image", "state", "step"):
        np.testing.assert_allclose(np.asarray(both[key])[1:], np.asarray(alone[key]), atol=1e-3)


def test_what_is_published_goes_on_from_its_state(networks: tuple[Any, Any], tmp_path: Path) -> None:
    from app.engine.graph_allowlist import ALLOWED_OPERATIONS
    from training.export.manifest import flops_per_pixel, operations
    from training.export.savedmodel import compare, save

    gan, search = networks
    save({"search": search}, tmp_path / "model")
    compare({"search": search}, tmp_path / "model")
    assert set(operations(tmp_path / "model")) <= ALLOWED_OPERATIONS
    # Ten steps of eight starts, forwards and backwards: many times one picture's, and the loop's turns are counted.
    assert flops_per_pixel(search, (28, 28)) > 100 * flops_per_pixel(gan, (28, 28))
