"""A published model gets functions in bfloat16 that its parts derive, or it is said why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import repository
from tests.model_repository import TILED, manifest, photo_signatures
from tests.training import tiny
from training.data.packs import Packs
from training.recipe import Recipe

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

PACKS = Packs("none")
PUBLISHED = Path(__file__).parents[3] / "models/published"


def ffdnet() -> Any:
    from training.architectures import ffdnet

    return ffdnet.build(width=8, depth=4)


def in_bfloat16(network: Any, samples: Callable[[], Mapping[str, np.ndarray]]) -> Any:
    from training.architectures import ffdnet

    assert samples()["image"].shape == (12, tiny.SIZE, tiny.SIZE, 3)
    return ffdnet.in_bfloat16(network, samples())


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A small FFDNet with weights that do something, in a model repository."""
    from training.export.manifest import operations
    from training.export.savedmodel import save

    network = ffdnet()
    random = np.random.default_rng(0)
    for layer in network.layers:
        for variable in layer.weights:
            variable.assign(random.normal(0, 0.15, variable.shape).astype(np.float16).astype(np.float32))
    save({"denoise": network}, tmp_path / "model")
    (tmp_path / "model/licences").mkdir()
    (tmp_path / "model/licences/one.txt").write_text("as is")
    described = manifest(
        name="tiny",
        signatures={"denoise": photo_signatures()["denoise"]},
        geometry=TILED,
        operations=operations(tmp_path / "model"),
        default=True,
    )
    return repository.publish(described, tmp_path / "model", tmp_path / "repository")


def recipe(**changes: Any) -> Recipe:
    return tiny.recipe(network=ffdnet, in_bfloat16=in_bfloat16, **changes)


def test_the_next_version_has_functions_that_answer_alike(published: Path, tmp_path: Path) -> None:
    from app.engine.tensorflow_runtime import Runtime
    from training.export.bfloat16 import add_bfloat16
    from training.export.savedmodel import Published

    place = add_bfloat16(recipe(), PACKS, published, tmp_path / "local", samples=12)
    assert place == tmp_path / "local/denoise/tiny/2"
    made = repository.open_model(place)
    assert repository.is_default(made)
    assert made.signatures["denoise"].precisions == {"bfloat16": "denoise_bfloat16"}
    assert (place / "licences/one.txt").read_text() == "as is"
    assert Runtime().problems(place, made) == []
    (row,) = made.quality[-1].rows
    assert row[:2] == ["denoise", "psnr"]
    assert row[2] == pytest.approx(row[3], abs=0.1)
    assert "In bfloat16" in (place / "card.md").read_text()

    random = np.random.default_rng(1)
    inputs = {"image": random.random((1, 32, 40, 3), np.float32), "level": np.full((1, 1, 1, 1), 0.3, np.float32)}
    before = Published(published)["denoise"](inputs)["image"]
    after = Published(place)
    np.testing.assert_allclose(after["denoise"](inputs)["image"], before, atol=1e-5)
    difference = np.abs(after["denoise_bfloat16"](inputs)["image"] - before).max()
    assert 0 < difference < 0.02 * before.std()


def test_without_a_network_or_with_a_loss_nothing_is_published(published: Path, tmp_path: Path) -> None:
    from training.export.bfloat16 import BFloat16Rejected, add_bfloat16

    with pytest.raises(BFloat16Rejected, match="denoise_tiny has no network for bfloat16"):
        add_bfloat16(tiny.recipe(network=ffdnet), PACKS, published, tmp_path / "local")
    figures = iter([{"psnr": 30.0}, {"psnr": 29.8}])
    losing = recipe(validate=lambda network, packs: next(figures))
    with pytest.raises(BFloat16Rejected, match=r"denoise in bfloat16: psnr falls from 30\.000 to 29\.800"):
        add_bfloat16(losing, PACKS, published, tmp_path / "local", samples=12)
    assert not (tmp_path / "local/denoise").exists()


def test_the_command_says_what_there_is_no_network_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.cli import main

    arguments = ["--precision", "bfloat16", "--data", str(tmp_path), "--to", str(tmp_path / "local")]
    assert main(["quantize", "denoise_digits", "--repository", str(PUBLISHED), *arguments]) == 2
    assert capsys.readouterr().err == "training: denoise_digits has no network for bfloat16\n"
