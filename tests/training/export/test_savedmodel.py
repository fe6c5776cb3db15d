"""A SavedModel answers as its network does, holds float16, and gives its weights back."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from tests.training import tiny

pytestmark = [
    pytest.mark.tf,
    # What Keras does with a TensorFlow variable under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Path]:
    """A tiny network whose weights float16 can hold, but for one layer's, and its SavedModel."""
    from training.export.savedmodel import save

    network = tiny.network()
    random = np.random.default_rng(0)
    for layer in network.layers:
        for variable in layer.weights:
            value = random.normal(0, 0.3, variable.shape).astype(np.float32)
            variable.assign(value if layer.name == "last" else value.astype(np.float16))
    folder = tmp_path_factory.mktemp("saved") / "model"
    save({"denoise": network}, folder)
    return network, folder


@pytest.mark.parametrize("shape", [(1, 7, 19), (3, 16, 16)])
def test_answers_as_its_network_at_any_size(exported: tuple[object, Path], shape: tuple[int, int, int]) -> None:
    from training.export.savedmodel import Published

    network, folder = exported
    random = np.random.default_rng(1)
    inputs = {
        "image": random.random((*shape, 3), dtype=np.float32),
        "level": random.random((shape[0], 1, 1, 1), dtype=np.float32),
    }
    expected = network(inputs)["image"].numpy()  # type: ignore[operator]
    assert Published(folder)["denoise"](inputs)["image"] == pytest.approx(expected, abs=1e-6)


def test_a_part_keeps_its_weights_when_the_rest_is_let_go(exported: tuple[object, Path]) -> None:
    from training.export.savedmodel import Published

    network, folder = exported
    part = Published(folder)["denoise"]
    gc.collect()
    assert part.count_params() == network.count_params()  # type: ignore[attr-defined]


def test_float16_only_where_nothing_is_lost(exported: tuple[object, Path]) -> None:
    import tensorflow as tf

    kinds = tf.train.load_checkpoint(str(exported[1] / "variables/variables")).get_variable_to_dtype_map()
    found = {key.split("/")[2]: kind for key, kind in kinds.items() if key.startswith("weights/")}
    assert found == {"first": tf.float16, "last": tf.float32}


def test_gives_its_weights_back(exported: tuple[object, Path]) -> None:
    from training.checkpoints import load_initial_weights
    from training.export.variables import layer_variables, read_variables

    network, folder = exported
    stored = read_variables(folder, "denoise")
    expected = {key: variable.numpy() for key, variable in layer_variables(network)}
    assert stored.keys() == expected.keys() == {"first/0", "first/1", "last/0", "last/1"}
    assert all(np.array_equal(stored[key], expected[key]) for key in expected)
    fresh = tiny.network()
    assert load_initial_weights(fresh, folder, "denoise") == 4
    assert np.array_equal(fresh.get_layer("last").get_weights()[0], expected["last/0"])


def test_says_when_there_is_no_model(tmp_path: Path) -> None:
    from training.export.variables import read_variables

    with pytest.raises(ValueError, match="not the folder of a published model"):
        read_variables(tmp_path, "denoise")


def test_the_service_may_load_what_it_lists(exported: tuple[object, Path]) -> None:
    from app.engine.tensorflow_runtime import Runtime
    from tests.model_repository import TILED, manifest, photo_signatures
    from training.export.manifest import operations

    signatures = {"denoise": photo_signatures()["denoise"]}
    listed = operations(exported[1])
    described = manifest(name="tiny", signatures=signatures, geometry=TILED, operations=listed)
    assert Runtime().problems(exported[1], described) == []
    without = described.model_copy(update={"operations": [name for name in listed if name != "Conv2D"]})
    assert Runtime().problems(exported[1], without) == ["operation Conv2D is not listed in the manifest"]


def test_refuses_a_saved_model_that_answers_otherwise(exported: tuple[object, Path]) -> None:
    from training.export.savedmodel import SavedModelMismatch, compare

    other = tiny.network()
    compare({"denoise": exported[0]}, exported[1])  # type: ignore[dict-item]
    with pytest.raises(SavedModelMismatch, match="denoise"):
        compare({"denoise": other}, exported[1])
