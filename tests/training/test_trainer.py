"""A run's schedule, averages, state and guard against numbers that are none, and what a run may start from."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training import tiny
from training.checkpoints import load_initial_weights
from training.data.packs import Packs
from training.recipe import Batch, Recipe

pytestmark = [
    pytest.mark.tf,
    # What Keras does with a TensorFlow variable under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

STEPS = 5
RATE = 1e-2
STILL = 1e-12
"""A rate at which nothing moves: what is there afterwards was there before."""
Train = Callable[..., Path]
Batches = Callable[[Packs, int, int], Callable[[int], Batch]]


class Clock:
    """Seconds that pass only when somebody looks: a run has the same length everywhere."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def trainer() -> ModuleType:
    from training import trainer

    return trainer


@pytest.fixture
def clock(trainer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    for module in ("training.trainer", "training.commands"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=ticking.monotonic))
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0.0)
    return ticking


@pytest.fixture
def seldom(clock: Clock, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after the first epoch and the last one only: for long runs, which then take five seconds an epoch."""
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 1e6)


@pytest.fixture
def train(trainer: ModuleType, clock: Clock, tmp_path: Path) -> Train:
    """Train a part for some seconds of the clock: about seven an epoch."""

    def run(recipe: Recipe | None = None, seconds: float = 20, part: str = "denoise", **options: Any) -> Path:
        given = {"started": clock.now, "hours": seconds / 3600, **options}
        return trainer.train(recipe or small(), part, Packs(tmp_path), tmp_path / "runs", **given)

    return run


def small(**changes: Any) -> Recipe:
    """Return the tiny recipe with short epochs and a short average."""
    return tiny.recipe({"denoise": small_part(**changes)})


def small_part(**changes: Any) -> tiny.TinyPart:
    return tiny.TinyPart(**{"steps_per_epoch": STEPS, "ema": 0.9, "learning_rate": RATE, **changes})


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def averages(folder: Path) -> dict[str, np.ndarray]:
    from training.weights import read_weights

    return read_weights(folder / "weights.weights.h5")


def state(folder: Path) -> list[np.ndarray]:
    """Return the saved variables, the network's before the optimizer's."""
    with np.load(folder / "state.npz") as saved:
        return [saved[f"v{i}"] for i in range(len(saved.files) - 2)]


def poisoned(wrong: Callable[[int], bool]) -> Batches:
    """Return batches whose pictures are no numbers where `wrong(index)`."""

    def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        make = tiny.TinyPart().batches(packs, seed, batch)
        return lambda index: {"clean": make(index)["clean"] * np.float32(np.nan if wrong(index) else 1)}

    return batches


# --- schedule ---


def test_the_rate_rises_and_then_falls_to_nearly_nothing_whatever_the_time(train: Train, seldom: None) -> None:
    rates = [line["rate"] for line in log(train(seconds=180))]
    assert rates[0] == pytest.approx(RATE * STEPS / 100, rel=0.02)
    assert rates[-1] < 0.05 * RATE
    peak = rates.index(max(rates))
    assert 0 < peak < len(rates) - 1
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("seconds", [0, 1])
def test_too_little_time_is_one_epoch_with_everything_saved(train: Train, seconds: int) -> None:
    folder = train(seconds=seconds)
    assert [line["step"] for line in log(folder)] == [STEPS]
    assert "psnr" in log(folder)[0]
    assert averages(folder)
    assert state(folder)
    assert (folder / "sheet.png").is_file()


def test_between_savings_a_line_has_the_loss_alone(
    train: Train, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 60.0)
    measured = ["psnr" in line for line in log(train(seconds=40))]
    assert len(measured) > 2
    assert measured == [True, *[False] * (len(measured) - 2), True]


def test_parts_share_the_time_as_their_own_hours_are(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import commands

    recipe = tiny.recipe({"long": small_part(hours=2.0), "short": small_part(hours=1.0)})
    monkeypatch.setattr(commands, "parts", lambda name: ((recipe, part) for part in recipe.parts))
    options = Namespace(
        recipes=["denoise_tiny"], hours=90 / 3600, data=tmp_path, out=tmp_path,
        resume=False, weights=None, seed=0, batch=None, rate=None, precision="float32",
    )  # fmt: skip
    commands.train(options, clock.now)
    long, short = (log(tmp_path / "denoise_tiny" / name)[-1]["seconds"] for name in recipe.parts)
    # To an epoch, of seven looks at the time.
    assert long == pytest.approx(60, abs=7)
    assert long + short == pytest.approx(90, abs=7)


# --- precision ---


def test_auto_is_float32_where_nothing_computes_bfloat16_faster(
    train: Train, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(trainer, "_step_seconds", None)  # nothing is measured
    folder = train(seconds=1, precision="auto")
    assert json.loads((folder / "run.json").read_text())["precision"] == "float32"
    assert "denoise_tiny:denoise: precision float32" in capsys.readouterr().err


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_auto_times_a_step_each_way_and_takes_the_faster(
    faster: str, train: Train, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "has_fast_bfloat16", lambda: True)
    measure, measured = trainer._step_seconds, []

    def step_seconds(*arguments: Any) -> float:
        measured.append(arguments[-1])
        assert measure(*arguments) > 0
        return 0.25 if arguments[-1] == faster else 0.5

    monkeypatch.setattr(trainer, "_step_seconds", step_seconds)
    folder = train(seconds=1, precision="auto")
    assert sorted(measured) == ["bfloat16", "float32"]
    assert json.loads((folder / "run.json").read_text())["precision"] == faster
    assert f"precision {faster} (one step: " in capsys.readouterr().err


def test_bfloat16_is_computed_with_and_weights_and_averages_are_float32(train: Train, trainer: ModuleType) -> None:
    import keras

    before = keras.config.dtype_policy().name
    learner = trainer._build_learner(small().parts["denoise"], 0, RATE, "bfloat16")
    assert learner.network.get_layer("first").compute_dtype == "bfloat16"
    image, level = np.full((1, 8, 8, 3), 0.123, np.float32), np.zeros((1, 1, 1, 1), np.float32)
    answer = keras.ops.convert_to_numpy(learner.network({"image": image, "level": level})["image"])
    np.testing.assert_array_equal(answer, image)  # the residual is zero at first
    assert {variable.dtype for variable in learner.trainable_variables} == {"float32"}
    assert keras.config.dtype_policy().name == before
    folder = train(seconds=1, precision="bfloat16")
    assert {value.dtype for value in averages(folder).values()} == {np.dtype(np.float32)}
    assert json.loads((folder / "run.json").read_text())["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu amx_bf16 amx_tile", True), ("fpu avx512_bf16", True), ("fpu avx512f", False)]
)
def test_the_processor_says_whether_bfloat16_may_be_faster(
    flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import precision

    monkeypatch.setattr("keras.distribution.list_devices", lambda: ["cpu:0"])
    (tmp_path / "cpuinfo").write_text(f"model name\t: any\nflags\t\t: {flags}\n")
    assert precision.has_fast_bfloat16(tmp_path / "cpuinfo") is expected
    assert not precision.has_fast_bfloat16(tmp_path / "missing")
    monkeypatch.setattr("keras.distribution.list_devices", lambda: ["gpu:0"])
    assert precision.has_fast_bfloat16(tmp_path / "missing")


# --- averages, state, going on ---


def test_averages_are_published_and_training_goes_on_from_the_weights(train: Train) -> None:
    folder = train()
    saved = state(folder)
    for average in averages(folder).values():
        if average.dtype == np.float32:
            assert any(np.array_equal(average, kept) for kept in saved)
    assert np.abs(averages(folder)["first/0"] - saved[0]).max() > 1e-4


def test_an_average_over_one_step_is_the_weights(train: Train) -> None:
    folder = train(small(ema=0.0), seconds=1)
    np.testing.assert_array_equal(averages(folder)["first/0"], state(folder)[0])


def test_the_seed_begins_the_run(train: Train) -> None:
    first, again, other = (log(train(seconds=1, seed=seed))[0]["loss"] for seed in (3, 3, 4))
    assert first == pytest.approx(again, abs=2e-6)
    assert first != pytest.approx(other, abs=2e-5)


def test_what_was_run_is_written_down(train: Train) -> None:
    folder = train(seed=5)
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["steps"], facts["seed"], facts["started_from"]) == (log(folder)[-1]["step"], 5, "")
    assert "CPU" in facts["device"]
    assert 0 < facts["seconds"] <= 30


def test_a_batch_may_be_larger(train: Train) -> None:
    sizes: list[int] = []

    def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        sizes.append(batch)
        return tiny.TinyPart().batches(packs, seed, batch)

    train(small(batches=batches, batch=4), seconds=1)
    train(small(batches=batches, batch=4), seconds=1, batch=7)
    assert sizes == [4, 7]


def test_a_rate_may_be_lower(train: Train) -> None:
    full, tenth = (max(line["rate"] for line in log(train(rate=rate))) for rate in (None, RATE / 10))
    assert tenth == pytest.approx(full / 10, rel=0.01)


def test_resuming_restores_every_variable_to_the_bit(
    train: Train, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras import ops

    saved = state(train(seconds=1))
    loaded: list[np.ndarray] = []

    def look(learner: Any, *arguments: Any, **options: Any) -> None:
        loaded.extend(ops.convert_to_numpy(variable) for variable in trainer._state(learner))

    monkeypatch.setattr(trainer.Learner, "fit", look)
    train(resume=True, seed=9)
    assert len(loaded) == len(saved) > 12  # weights, averages, two moments
    for ours, kept in zip(loaded, saved, strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_resuming_goes_on_with_the_next_batch_and_not_resuming_begins_anew(train: Train) -> None:
    asked: list[int] = []

    def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        make = tiny.TinyPart().batches(packs, seed, batch)
        return lambda index: (asked.append(index), make(index))[1]

    recipe = small(batches=batches)
    steps = log(train(recipe, resume=True))[-1]["step"]
    assert min(asked) == 0
    # TensorFlow looks at the first batches for their shapes and then asks for them again.
    assert set(range(int(steps))) <= set(asked)
    asked.clear()
    lines = log(train(recipe, resume=True))
    assert min(asked) == steps
    assert [line["step"] for line in lines] == [STEPS * (i + 1) for i in range(len(lines))]
    assert lines[-1]["step"] > steps
    asked.clear()
    assert log(train(recipe))[0]["step"] == STEPS
    assert min(asked) == 0


def test_a_state_of_another_network_is_not_gone_on_from(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    from training.recipe import BadInitialWeights

    def wider() -> Any:
        import keras

        network = tiny.network()
        more = keras.layers.Conv2D(3, 1, name="more")(network.output["image"])
        return keras.Model(network.input, {"image": more}, name="tiny")

    train(seconds=1)
    with pytest.raises(BadInitialWeights, match="does not fit the current network of denoise_tiny:denoise"):
        train(small(network=wider), seconds=1, resume=True)


def test_a_resumption_without_a_state_says_that_it_begins_anew(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train(seconds=1, resume=True)
    assert "state.npz does not exist; starting a new training" in capsys.readouterr().err


# --- numbers that are none ---


def test_going_back_is_to_the_last_good_averages(train: Train) -> None:
    start = averages(train(small(learning_rate=STILL), seconds=1))
    folder = train(small(learning_rate=STILL, batches=poisoned(lambda index: index == 12)), seconds=40)
    steps = [line["step"] for line in log(folder)]
    assert 3 * STEPS not in steps
    assert steps[-1] > 3 * STEPS
    for key, value in averages(folder).items():
        if value.dtype == np.float32:
            np.testing.assert_allclose(value, start[key], atol=1e-7)
    assert all(np.isfinite(value).all() for value in state(folder))


def test_going_back_halves_the_rate(train: Train, seldom: None) -> None:
    # Two runs of one length; the looks at the time that the spoiled epoch does not take move the second one a little.
    plain = {line["step"]: line["rate"] for line in log(train(seconds=200))}
    spoiled = {line["step"]: line["rate"] for line in log(train(small(batches=poisoned(lambda i: i == 12)), 200))}
    for step in (STEPS, 2 * STEPS):
        assert spoiled[step] == pytest.approx(plain[step], rel=0.01)
    for step in range(4 * STEPS, 20 * STEPS, STEPS):
        assert spoiled[step] == pytest.approx(plain[step] / 2, rel=0.1)


def test_numbers_that_stay_away_end_with_the_time_and_the_last_good_weights(train: Train) -> None:
    folder = train(small(batches=poisoned(lambda index: index >= 12)), seconds=40)
    assert [line["step"] for line in log(folder)] == [STEPS, 2 * STEPS]
    assert all(np.isfinite(value).all() for value in [*averages(folder).values(), *state(folder)])


def test_a_step_that_spoils_the_weights_after_a_finite_loss_is_not_saved(train: Train, tmp_path: Path) -> None:
    def batches(packs: Packs, seed: int, batch: int) -> Callable[[int], Batch]:
        make = tiny.TinyPart().batches(packs, seed, batch)
        return lambda index: {**make(index), "kept": np.full((batch, 1), index != STEPS - 1, np.float32)}

    def loss(network: Any, batch: Any, seed: Any) -> Any:
        from keras import ops

        # The root has no slope at zero: the loss is a number and its gradient is none.
        level = ops.zeros_like(batch["clean"][:, :1, :1, :1])
        answer = ops.mean(network({"image": batch["clean"], "level": level})["image"], axis=(1, 2))
        root = ops.sqrt(batch["kept"] * (ops.square(answer) + 1))
        return tiny.TinyPart().loss(network, batch, seed) + 1e-9 * ops.mean(root)

    with pytest.raises(FloatingPointError):
        train(small(batches=batches, loss=loss))
    assert not list((tmp_path / "runs").rglob("*.npz"))


# --- what a run may start from ---


def _other_exit() -> Any:
    import keras
    from keras import layers

    network = tiny.network()
    x = network.get_layer("first").output
    exit_ = layers.Conv2D(3, 1, name="exit")(x)
    return keras.Model(network.input, {"image": exit_}, name="other")


def test_a_part_starts_from_the_one_it_builds_upon(train: Train) -> None:
    built_upon = averages(train(seconds=1))
    recipe = tiny.recipe({"again": small_part(learning_rate=STILL, network=_other_exit, start="denoise")})
    folder = train(recipe, part="again", seconds=1)
    np.testing.assert_allclose(averages(folder)["first/0"], built_upon["first/0"], atol=1e-7)
    assert "denoise" in json.loads((folder / "run.json").read_text())["started_from"]


def test_a_part_starts_from_the_files_of_weights_that_it_names(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, bias = (np.full(value.shape, 0.25, np.float32) for value in tiny.network().get_weights()[:2])
    np.savez(tmp_path / "a.npz", **{"first/0": kernel, "first/1": bias})
    np.savez(tmp_path / "b.npz", **{"first/1": 2 * bias})
    monkeypatch.setenv("RESTORE_WEIGHTS", str(tmp_path))
    recipe = tiny.recipe({"again": small_part(learning_rate=STILL, first_weights=("a.npz", "b.npz"))})
    folder = train(recipe, part="again", seconds=1)
    np.testing.assert_allclose(averages(folder)["first/0"], kernel, atol=1e-7)
    np.testing.assert_allclose(averages(folder)["first/1"], 2 * bias, atol=1e-7)
    assert "a.npz" in json.loads((folder / "run.json").read_text())["started_from"]


def test_names_and_shapes_decide_what_is_taken(trainer: ModuleType, tmp_path: Path) -> None:
    network = tiny.network()
    before = [np.array(value) for value in network.get_weights()]
    kernel, bias = np.full(before[0].shape, 0.25, np.float16), np.zeros(9, np.float32)
    np.savez(tmp_path / "arrays.npz", **{"first/0": kernel, "first/1": bias, "elsewhere/0": kernel})
    assert load_initial_weights(network, tmp_path / "arrays.npz", "denoise") == 1
    after = network.get_weights()
    np.testing.assert_array_equal(after[0], kernel.astype(np.float32))
    for old, new in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(old, new)


def test_nothing_that_fits_is_an_error(trainer: ModuleType, tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", **{"elsewhere/0": np.zeros(3)})
    with pytest.raises(ValueError, match="no variable with a name and shape of tiny"):
        load_initial_weights(tiny.network(), tmp_path / "arrays.npz", "denoise")


def test_a_published_folder_is_a_start(train: Train, tmp_path: Path) -> None:
    from training.export.savedmodel import save

    trained = tiny.network()
    save({"denoise": trained}, tmp_path / "model")
    folder = train(small(learning_rate=STILL), seconds=1, weights=tmp_path / "model", seed=8)
    np.testing.assert_allclose(averages(folder)["first/0"], trained.get_weights()[0], atol=1e-7)
    assert json.loads((folder / "run.json").read_text())["started_from"].endswith("model")


def test_hours_and_steps_of_previous_runs_are_written_down_and_survive_a_resumption(
    train: Train, tmp_path: Path
) -> None:
    from training.export.savedmodel import save

    model = tmp_path / "denoise/tiny/1"
    save({"denoise": tiny.network()}, model)
    (model / "manifest.json").write_text(json.dumps({"provenance": {"hours": 2.0, "steps": 300}}))
    facts = []
    for options in ({"weights": model}, {"resume": True}):
        folder = train(seconds=1, **options)
        facts.append(json.loads((folder / "run.json").read_text()))
    for told in facts:
        assert told["previous_runs"] == [["denoise/tiny/1", 2.0, 300]]
        assert told["started_from"].endswith("denoise/tiny/1")
    assert facts[1]["steps"] > facts[0]["steps"]
    # From nothing again: there is nothing before it.
    assert json.loads((train(seconds=1) / "run.json").read_text())["previous_runs"] == []


def test_a_part_that_builds_upon_another_does_not_count_it_again(train: Train) -> None:
    train(seconds=1)
    recipe = tiny.recipe({"again": small_part(start="denoise")})
    folder = train(recipe, part="again", seconds=1)
    assert json.loads((folder / "run.json").read_text())["previous_runs"] == []


def test_a_folder_without_a_model_is_no_start(trainer: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not the folder of a published model"):
        load_initial_weights(tiny.network(), tmp_path, "denoise")


@pytest.mark.parametrize("name", ["start.weights.h5", "start.npz", "start.md"])
def test_a_file_that_holds_no_weights_is_no_start(trainer: ModuleType, name: str, tmp_path: Path) -> None:
    from training.recipe import BadInitialWeights

    (tmp_path / name).write_text("words")
    with pytest.raises(BadInitialWeights, match=f"cannot read weights from .*{name}"):
        load_initial_weights(tiny.network(), tmp_path / name, "denoise")


def test_a_dataset_archive_is_a_start(train: Train, tmp_path: Path) -> None:
    network = tiny.network()
    arrays = partial(np.savez, tmp_path / "start/denoise_tiny/denoise.npz")
    (tmp_path / "start/denoise_tiny").mkdir(parents=True)
    arrays(**{"first/0": np.full(network.get_weights()[0].shape, 0.125, np.float16)})
    folder = train(small(learning_rate=STILL), seconds=1, weights=tmp_path / "start")
    assert averages(folder)["first/0"] == pytest.approx(0.125, abs=1e-6)
