"""A published model with functions in bfloat16 beside its signatures: derived, measured, put in a repository.

For networks that lose too much where a service computes them in bfloat16 as they are.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import keras
import numpy as np

from models import repository
from models.manifest import Manifest, QualityTable, Signature, excessive_losses, kind_of
from training.checkpoints import load_initial_weights
from training.data.packs import Packs
from training.evaluation.tables import ResultTable
from training.export.card import card
from training.export.eight_bit import training_samples
from training.export.manifest import operations
from training.export.savedmodel import Published, compare, save
from training.recipe import Part, Recipe

SAMPLES = 192
"""Training samples by which a network is fitted to bfloat16."""
TOLERANCE = 2e-2
"""How far a SavedModel in bfloat16 may be from its network on noise: what is fused is rounded less often."""
SUFFIX = "_bfloat16"


class BFloat16Rejected(ValueError):
    """A model without a network for bfloat16, or one that loses too much; the message has the figures."""


def add_bfloat16(recipe: Recipe, packs: Packs, source: Path, root: Path, *, samples: int = SAMPLES) -> Path:
    """Put the published model in `source`, with functions in bfloat16, in the repository `root` as the next version.

    Return its folder. Raises BFloat16Rejected, MissingPack, SavedModelMismatch, RepositoryError.
    """
    old = repository.open_model(source)
    networks, derived = {}, {}
    for name, part in recipe.parts.items():
        networks[name] = part.network()
        load_initial_weights(networks[name], source, name)
        network = part.in_bfloat16(networks[name], partial(_join_samples, part, packs, samples))
        if network is not None:
            derived[name] = network
    if not derived:
        raise BFloat16Rejected(f"{recipe.id} has no network for bfloat16")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _save(networks, derived, folder, recipe.side(64))
        for path in old.files.keys() - repository.files(folder).keys():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes((source / path).read_bytes())
        table = _measure(recipe, packs, folder, derived)
        new = _describe(recipe, old, folder, derived, table, repository.next_version(old.task, old.name, root))
        (folder / "card.md").write_text(
            card(recipe, new, [ResultTable(**dict(one)) for one in new.quality]), encoding="utf-8"
        )
        return repository.publish(new, folder, root)


def _join_samples(part: Part, packs: Packs, count: int) -> dict[str, np.ndarray]:
    """Return `count` inputs of a network as one batch, as training sees them."""
    samples = training_samples(part, packs, count)
    return {key: np.concatenate([one[key] for one in samples]) for key in samples[0]}


def _save(networks: Mapping[str, keras.Model], derived: Mapping[str, keras.Model], folder: Path, side: int) -> None:
    functions = {name + SUFFIX: network for name, network in derived.items()}
    save({**networks, **functions}, folder)
    compare(networks, folder, side)
    compare(functions, folder, side, TOLERANCE)


def _measure(recipe: Recipe, packs: Packs, folder: Path, derived: Mapping[str, keras.Model]) -> QualityTable:
    """Return the figures of signatures and of their functions in bfloat16. Raises BFloat16Rejected."""
    published = Published(folder)
    rows: list[list[str | float]] = []
    for name in derived:
        before, after = (recipe.parts[name].validate(published[one], packs) for one in (name, name + SUFFIX))  # type: ignore[arg-type]
        figures = {key: (value, after[key]) for key, value in before.items() if kind_of(key)}
        problems = excessive_losses(figures)
        if problems:
            raise BFloat16Rejected(f"{name} in bfloat16: {'; '.join(problems)}")
        rows += [[name, key, *values] for key, values in figures.items()]
    return QualityTable(
        title="In bfloat16, on held-out pictures",
        command=f"python -m training quantize {recipe.id} --precision bfloat16",
        columns=["signature", "figure", "float32", "bfloat16"],
        rows=rows,
    )


def _describe(
    recipe: Recipe,
    old: Manifest,
    folder: Path,
    derived: Mapping[str, keras.Model],
    table: QualityTable,
    version: int,
) -> Manifest:
    def allow(name: str, signature: Signature) -> Signature:
        if name in derived:
            return signature.model_copy(update={"precisions": {**signature.precisions, "bfloat16": name + SUFFIX}})
        return signature.model_copy(update={"bfloat16": name in recipe.parts and recipe.parts[name].bfloat16})

    changes = {
        "version": max(old.version + 1, version),
        "created": datetime.datetime.now(datetime.UTC).date(),
        "signatures": {name: allow(name, signature) for name, signature in old.signatures.items()},
        "quality": [*(one for one in old.quality if one.title != table.title), table],
        "files": repository.files(folder),
        "operations": operations(folder),
    }
    return Manifest.model_validate(dict(old) | changes)
