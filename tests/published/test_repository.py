"""The models that are in the repository keep their contract, and the shelf stays small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.local import warm_sizes
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from models import repository
from models.manifest import Tensor

PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "published"
FOLDERS = list(repository.folders([PUBLISHED]))
MEGABYTE = 2**20

each_model = pytest.mark.parametrize("folder", FOLDERS, ids=["-".join(folder.parts[-3:]) for folder in FOLDERS])


def test_there_are_models() -> None:
    assert FOLDERS


@each_model
def test_it_is_what_its_manifest_says(folder: Path) -> None:
    manifest = repository.open_model(folder)  # raises for any file that is missing, differs or is not listed
    assert manifest.quality
    assert "card.md" in manifest.files


@each_model
@pytest.mark.tf
def test_its_graph_keeps_the_contract(folder: Path) -> None:
    assert Runtime().problems(folder, repository.open_model(folder)) == []


@each_model
@pytest.mark.tf
def test_pictures_of_a_batch_do_not_see_each_other(folder: Path) -> None:
    manifest = repository.open_model(folder)
    model = Runtime().load(folder, manifest)
    dice = np.random.default_rng(0)
    size = warm_sizes(manifest.geometry)[0]
    for name, signature in manifest.signatures.items():
        pair = [{key: _anything(dice, tensor, size) for key, tensor in signature.inputs.items()} for _ in range(2)]
        together = model.run(name, {key: np.concatenate([one[key] for one in pair]) for key in pair[0]})
        for place, one in enumerate(pair):
            for key, alone in model.run(name, one).items():
                np.testing.assert_allclose(together[key][place], alone[0], atol=2e-3, err_msg=f"{name} {key}")


def _anything(dice: np.random.Generator, tensor: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    low, high = tensor.range or (0.0, 1.0)
    free = iter(size)
    rest = [(next(free, 1) if tensor.per == "tile" else 1) if n == -1 else n for n in tensor.shape[1:]]
    return dice.uniform(low, high, (1, *rest)).astype(np.float32)


@pytest.mark.tf
def test_the_registry_serves_all_of_them() -> None:
    entries = Registry([PUBLISHED], Runtime()).statuses()
    assert {entry.id: entry.reason for entry in entries if entry.state == "unavailable"} == {}
    assert len(entries) == len(FOLDERS)


def test_each_task_has_one_default() -> None:
    manifests = [repository.open_model(folder) for folder in FOLDERS]
    names = {(manifest.task, manifest.name) for manifest in manifests if repository.is_default(manifest)}
    assert Counter(task for task, _ in names) == dict.fromkeys({manifest.task for manifest in manifests}, 1)


def test_the_shelf_stays_small() -> None:
    """It goes with every clone, and each version that is replaced stays in the history."""
    sizes = {path: path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 100 * MEGABYTE
    assert [path for path, size in sizes.items() if size > 25 * MEGABYTE] == []
