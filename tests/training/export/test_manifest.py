"""What a manifest says of a network is what the network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training import tiny

pytestmark = [
    pytest.mark.tf,
    # What Keras does with a TensorFlow variable under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def stack(depth: int, scale: int = 1) -> Any:
    """Return a network of `depth` plain 3x3 convolutions of which nothing is small, enlarging `scale` times."""
    import keras
    from keras import layers, ops

    image = x = keras.Input((None, None, 3), name="image")
    for i in range(depth):
        x = layers.Conv2D(3, 3, padding="same", kernel_initializer=keras.initializers.Constant(0.2), name=f"c{i}")(x)
    if scale > 1:
        x = ops.depth_to_space(layers.Conv2D(3 * scale**2, 1, name="exit")(x), scale)
    return keras.Model({"image": image}, {"image": x})


@pytest.mark.parametrize(
    ("depth", "scale", "multiple", "expected"), [(3, 1, 1, 5), (3, 1, 2, 6), (3, 1, 8, 16), (5, 3, 1, 7), (0, 3, 1, 0)]
)
def test_halo_of_plain_convolutions_is_their_radius_and_some_to_spare(
    depth: int, scale: int, multiple: int, expected: int
) -> None:
    from training.export import halo

    background = np.random.default_rng(0).random((1, 64, 64, 3), dtype=np.float32)
    network = stack(depth, scale)
    assert halo.measure(network, scale=scale, multiple=multiple, tolerance=5e-4, background=background) == expected


def test_halo_that_no_tile_can_have() -> None:
    from training.export import halo

    background = np.random.default_rng(0).random((1, 16, 16, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="larger than the test picture"):
        halo.measure(stack(9), scale=1, multiple=1, tolerance=5e-4, background=background)


def test_hours_are_those_of_every_run_and_what_parts_share_counts_once(tmp_path: Path) -> None:
    from training.data.packs import Packs
    from training.export.manifest import _provenance
    from training.recipe import load

    recipe = load("superres_photo")
    recipe.packs = ()
    del recipe.parts["aliasing"]
    common = {"seed": 0, "device": "2 CPU cores", "started_from": "superres/photo/3", "steps": 100}
    runs = {
        "x4": {**common, "seconds": 1800, "previous_runs": [["superres/photo/3", 1.5, 4000]]},
        "x2": {**common, "seconds": 900, "before": [["superres/photo/3", 1.5, 4000]]},
        # As the first runs were written.
        "x3": {**common, "seconds": 900},
    }
    for name, facts in runs.items():
        folder = tmp_path / "superres_photo" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(facts))
    found = _provenance(recipe, Packs(tmp_path), tmp_path)
    assert (found.hours, found.steps, found.started_from) == (2.5, 4300, "superres/photo/3")


def test_scale_and_cost() -> None:
    from training.export.manifest import flops_per_pixel, scale_of

    assert scale_of(stack(1, 3)) == 3
    assert scale_of(tiny.network()) == 1
    assert flops_per_pixel(stack(2), (32, 32)) == 2 * 2 * 9 * 3 * 3
    assert flops_per_pixel(tiny.network(), (32, 48)) == 2 * 9 * (4 * 8 + 8 * 3)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_part_says_whether_it_can_be_computed_in_bfloat16(bfloat16: bool) -> None:
    from training.export.manifest import signature

    assert signature(tiny.network(), {}, bfloat16=bfloat16).bfloat16 == bfloat16
