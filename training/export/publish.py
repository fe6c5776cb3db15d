"""Export, check, measure, describe, and put in the model repository."""

from __future__ import annotations

import tempfile
from pathlib import Path

from models import repository
from training.data.packs import Packs
from training.export.card import card
from training.export.manifest import describe, licence_file
from training.export.savedmodel import Published, export
from training.recipe import Recipe

LICENCES = Path(__file__).parents[1] / "licences"


def publish(recipe: Recipe, packs: Packs, out: Path, root: Path, *, default: bool = False) -> Path:
    """Publish the training results in `out` as the next version in the model repository `root` and return its folder.

    The tables are those of the SavedModel itself, run as the service runs it. Raises NotTrained, SavedModelMismatch,
    MissingPack, RepositoryError.
    """
    root.mkdir(parents=True, exist_ok=True)  # before the measuring, which takes long
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        networks = export(recipe, packs, out, folder)
        published = Published(folder)
        tables = recipe.evaluate(published, packs)
        version = repository.next_version(recipe.task, recipe.name, root)
        manifest = describe(recipe, networks, folder, packs, out, version=version, quality=tables)
        files = dict(recipe.files(published, packs))
        files |= {licence_file(start): (LICENCES / start.text).read_bytes() for start in recipe.starts}
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        (folder / "card.md").write_text(card(recipe, manifest, tables), encoding="utf-8")
        return repository.publish(manifest, folder, root, default=True if default else None)
