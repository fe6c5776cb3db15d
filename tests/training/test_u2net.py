"""U²-Netp is that of its authors, and what joins it changes nothing before it has learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.data.packs import MissingPack, Packs

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def built(*, joined: bool = False, light: bool = False) -> Any:
    import keras

    from training.architectures import u2net

    image = keras.Input((None, None, 3), name="image")
    others = {4: keras.layers.AveragePooling2D(4)(image)} if joined else None
    return keras.Model(image, u2net.build(image, others, light=light))


def test_every_side_has_the_size_of_the_picture() -> None:
    for network in (built(), built(light=True)):
        found = network(np.zeros((1, 64, 96, 3), np.float32))
        assert [tuple(one.shape) for one in found] == [(1, 64, 96, 1)] * 7


def test_others_join_at_nothing() -> None:
    import keras

    plain, joined = built(), built(joined=True)
    for layer in plain.layers:
        if layer.weights:
            joined.get_layer(layer.name).set_weights(layer.get_weights())
    picture = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    before, after = (keras.ops.convert_to_numpy(network(picture)[0]) for network in (plain, joined))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_the_authors_weights_fit_and_find_what_stands_out() -> None:
    """The full answer was compared with that of onnxruntime once: it differs by 5e-5 at most."""
    from training.recipes.segment_object import original

    try:
        network = original(Packs())
    except MissingPack as missing:
        pytest.skip(str(missing))
    inside = np.hypot(*(np.mgrid[:320, :320] - 160)) < 80
    picture = np.where(inside[..., None], (0.9, 0.2, 0.1), (0.3, 0.5, 0.3)).astype(np.float32)
    found = np.asarray(network({"image": picture[None]})["probabilities"])[0, ..., 0] > 0.5
    assert (found & inside).sum() / (found | inside).sum() > 0.95


def test_the_loss_of_the_recipe_falls_with_better_answers() -> None:
    import keras

    from training.recipes.segment_object import ObjectPart

    part = ObjectPart()
    network = part.network()
    for layer in network.layers:
        if layer.name == "outconv" or layer.name.startswith(("side", "light_out")):
            layer.set_weights([np.zeros_like(value) for value in layer.get_weights()])
    truth = np.zeros((2, 64, 96), np.uint8)
    truth[:, 20:40, 30:60] = 255
    batch = {"image": np.full((2, 64, 96, 3), 128, np.uint8), "opacity": truth}
    seed = keras.random.SeedGenerator(0)
    undecided = float(part.loss(network, batch, seed))
    network.get_layer("outconv").set_weights([np.zeros((1, 1, 6, 1), np.float32), np.array([-3.0], np.float32)])
    mostly_right = float(part.loss(network, {**batch, "opacity": truth * 0}, seed))
    assert mostly_right < undecided
    frozen = {layer.name for layer in network.layers if layer.weights and not layer.trainable}
    assert "block_16_project" in frozen
    assert "stage2d_in" not in frozen


def test_figures_are_those_of_known_answers(tmp_path: Any) -> None:
    from PIL import Image

    from training.recipes import segment_object

    for folder in ("images", "masks"):
        (tmp_path / "object/test" / folder).mkdir(parents=True)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 20:60] = 255
    for name in "ab":
        Image.fromarray(mask[..., None].repeat(3, 2)).save(tmp_path / f"object/test/images/{name}.png")
        Image.fromarray(mask).save(tmp_path / f"object/test/masks/{name}.png")
    packs = Packs(tmp_path)
    right = segment_object.measure(lambda picture: picture[..., :1] / np.float32(255), packs)
    assert right == pytest.approx([100, 100, 100, 0])
    half = segment_object.measure(
        lambda picture: picture[..., :1] / np.float32(255) * (np.arange(80) < 40)[:, None], packs
    )
    assert half[:2] == pytest.approx([50, 50])
    assert half[3] == pytest.approx(100 * 800 / 4800)


def test_a_mirrored_network_answers_the_mean_for_both_directions() -> None:
    from training.recipes.segment_object import build_network, mirror

    network = build_network()
    image = np.random.default_rng(0).random((1, 64, 96, 3), np.float32)
    there, back = (network({"image": one})["probabilities"].numpy() for one in (image, image[:, :, ::-1].copy()))
    found = mirror(network)({"image": image})["probabilities"].numpy()
    np.testing.assert_allclose(found, (there + back[:, :, ::-1]) / 2, atol=1e-5)
    assert np.abs(there - back[:, :, ::-1]).max() > 1e-4


def test_stretched_answers_reach_both_ends_and_keep_their_order() -> None:
    import keras

    from training.recipes.segment_object import HIGHEST, LOWEST, stretch

    image = keras.Input((None, None, 1), name="image")
    network = stretch(keras.Model({"image": image}, {"probabilities": image}))
    given = np.array([0, LOWEST, (LOWEST + HIGHEST) / 2, 0.8, HIGHEST, 1], np.float32).reshape(1, 1, -1, 1)
    found = np.ravel(network({"image": given})["probabilities"])
    expected = [0, 0, 0.5, (0.8 - LOWEST) / (HIGHEST - LOWEST), 1, 1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
