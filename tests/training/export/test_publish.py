"""From nothing to a published model that the service takes: digits, trained for seconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from training.data.packs import Packs

pytestmark = [
    pytest.mark.tf,
    pytest.mark.data,
    pytest.mark.slow,
    # What Keras does with a TensorFlow variable under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def test_trains_publishes_and_starts_again(packs: Packs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.engine.tensorflow_runtime import Runtime
    from models import repository as store
    from tests.training.test_trainer import Clock
    from training import recipe, trainer
    from training.checkpoints import load_initial_weights
    from training.export.publish import publish
    from training.export.savedmodel import Published

    digits = recipe.load("denoise_digits")
    monkeypatch.setattr(digits, "starts", (recipe.Start("Somebody's digits", "MIT", "ffdnet.txt"),))
    clock = Clock()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=clock.monotonic))
    trainer.train(digits, "denoise", packs, tmp_path / "runs", started=clock.now, hours=30 / 3600)
    place = publish(digits, packs, tmp_path / "runs", tmp_path / "repository", default=True)

    assert place == tmp_path / "repository/denoise/digits/1"
    manifest = store.open_model(place)
    assert store.is_default(manifest)
    assert Runtime().problems(place, manifest) == []
    assert manifest.geometry.valid_sizes == [(28, 28)]
    assert manifest.parameters == 30689
    assert manifest.provenance.steps > 0
    assert manifest.provenance.data == {"digits": packs.digest("digits")}
    card = (place / "card.md").read_text()
    (start,) = manifest.provenance.starts
    assert "MIT License" in (place / start.licence_file).read_text()
    assert f"Somebody's digits, MIT (its text: `{start.licence_file}`)" in card
    assert "denoise/digits@1" in card
    assert manifest.provenance.data["digits"] in card

    again = digits.evaluate(dict(Published(place)), packs)[0]
    assert [row[1] for row in manifest.quality[0].rows] == pytest.approx([row[1] for row in again.rows], abs=1e-3)
    network = digits.parts["denoise"].network()
    assert load_initial_weights(network, place, "denoise") == len(network.weights)
