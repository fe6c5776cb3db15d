"""The loop learns, ends annealed, resumes, starts from weights, and gets over a loss that is not finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training import tiny
from training.data.packs import Packs
from training.recipe import Batch, Recipe

pytestmark = [
    pytest.mark.tf,
    # What Keras does with a TensorFlow variable under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


class Clock:
    """A second passes with every look: how far a run gets does not depend on the machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("training.loop.time", SimpleNamespace(monotonic=made.monotonic))
    monkeypatch.setattr("training.loop.SAVE_SECONDS", 0.0)
    return made


def train(recipe: Recipe, out: Path, clock: Clock, seconds: float = 100, **options: Any) -> Path:
    from training import loop

    return loop.train(recipe, "denoise", Packs(out), out, started=clock.now, hours=seconds / 3600, **options)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_learns_and_ends_annealed(tmp_path: Path, clock: Clock) -> None:
    folder = train(tiny.recipe(), tmp_path, clock)
    log = lines(folder)
    assert log[-1]["psnr"] > 15  # the noise is at 14 dB
    assert log[-1]["psnr"] > log[0]["psnr"]
    assert log[-1]["rate"] < 0.1 * max(line["rate"] for line in log)
    assert [line["step"] for line in log] == [10 * (i + 1) for i in range(len(log))]
    assert {path.name for path in folder.iterdir()} == {
        "weights.weights.h5", "state.npz", "log.jsonl", "run.json", "sheet.png"
    }  # fmt: skip


def test_the_weights_file_is_what_was_measured(tmp_path: Path, clock: Clock) -> None:
    from training.results import trained

    recipe = tiny.recipe()
    folder = train(recipe, tmp_path, clock)
    measured = tiny.validate(trained(recipe, tmp_path)["denoise"], Packs(tmp_path))
    assert round(measured["psnr"], 4) == lines(folder)[-1]["psnr"]


def test_resumes_where_it_stopped(tmp_path: Path, clock: Clock) -> None:
    first = lines(train(tiny.recipe(), tmp_path, clock))
    second = lines(train(tiny.recipe(), tmp_path, clock, resume=True))
    assert second[: len(first)] == first
    assert second[len(first)]["step"] == first[-1]["step"] + 10
    assert second[len(first)]["seconds"] > first[-1]["seconds"]
    assert second[len(first)]["psnr"] > first[0]["psnr"]
    told = json.loads((tmp_path / "denoise_tiny/denoise/run.json").read_text())
    assert told["steps"] == second[-1]["step"]


def test_starts_from_weights(tmp_path: Path, clock: Clock) -> None:
    recipe = tiny.recipe()
    weights = train(recipe, tmp_path / "first", clock) / "weights.weights.h5"
    begun = lines(train(recipe, tmp_path / "second", clock, weights=weights))
    assert begun[0]["psnr"] > lines(weights.parent)[0]["psnr"]


def test_refuses_weights_of_another_network(tmp_path: Path) -> None:
    import keras

    from training.loop import start_from

    image = keras.Input((4,), name="image")
    other = keras.Model({"image": image}, {"image": keras.layers.Dense(3, name="dense")(image)})
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="no variable"):
        start_from(tiny.network(), tmp_path / "other.weights.h5", "denoise")


def poisoned(first: int, last: int) -> Callable[..., Callable[[int], Batch]]:
    """Return `batches` whose batches from `first` to `last` are not finite."""

    def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        def make(index: int) -> Batch:
            clean = tiny.scenes(index, batch)
            return {"clean": clean * np.float32(np.nan) if first <= index <= last else clean}

        return make

    return batches


def test_gets_over_a_loss_that_is_not_finite(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(tiny.recipe(batches=poisoned(33, 34)), tmp_path, clock)
    assert "not finite" in capsys.readouterr().err
    log = lines(folder)
    assert all(np.isfinite(line["loss"]) for line in log)
    assert 40 not in [line["step"] for line in log]
    assert log[-1]["step"] > 40
    assert log[-1]["psnr"] > 15


def test_gives_up_where_nothing_was_ever_finite(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(FloatingPointError, match="from the start"):
        train(tiny.recipe(batches=poisoned(0, 10**6)), tmp_path, clock)
