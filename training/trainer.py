"""The training loop: Keras's own `fit`, a schedule over wall time, averaged weights, a state to resume from.

Weights are averaged (exponential moving average) because a short run's last step is noisy; everything that is
measured, drawn or published is the average.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from training.checkpoints import load_initial_weights
from training.data.packs import Packs
from training.precision import PRECISIONS, dtype_policy, has_fast_bfloat16
from training.recipe import BadInitialWeights, Part, Recipe
from training.runs import PREVIOUS_RUNS, RUN, PastRun, previous_runs, read_previous_runs

if TYPE_CHECKING:
    from collections.abc import Mapping

SAVE_SECONDS = 60.0
PREVIEW_SECONDS = 600.0


class Learner(keras.Model):
    """A network with its loss as one compiled step: `call` returns the loss of a batch of named arrays."""

    def __init__(self, network: keras.Model, part: Part, seed: int) -> None:
        super().__init__(name="learner", dtype="float32")
        self.network = network
        self.part = part
        self.seed = keras.random.SeedGenerator(seed)

    def call(self, batch: Mapping[str, Any]) -> Any:
        """Return the loss of `batch` as a tensor of shape (1,)."""
        return ops.reshape(self.part.loss(self.network, batch, self.seed), (1,))

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        """Return the mean of the loss that `call` returned."""
        return ops.mean(y_pred)

    def build(self, input_shape: Any) -> None:
        """Mark the model as built: the network is built already, and the loss adds no weights."""
        self.built = True


class _Batches(keras.utils.PyDataset):
    """An endless stream of a part's batches, made by threads."""

    def __init__(self, make: Any, first: int) -> None:
        super().__init__(workers=max(2, min(12, (os.cpu_count() or 2) - 2)), max_queue_size=16)
        self.make, self.first = make, first

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> tuple[Any]:
        return (dict(self.make(self.first + index)),)


class RunCallback(keras.callbacks.Callback):
    """What a run does between its steps: schedule, averages, validation, log, state, guard against NaN."""

    def __init__(
        self,
        recipe: Recipe,
        part_name: str,
        packs: Packs,
        folder: Path,
        started: float,
        hours: float,
        seed: int,
        peak: float,
        precision: str,
    ) -> None:
        super().__init__()
        self.recipe, self.part_name, self.part = recipe, part_name, recipe.parts[part_name]
        self.packs, self.folder = packs, folder
        # A second part of one process gets its own share of time: `started` is when its time began.
        self.started, self.seconds = started, max(1.0, hours * 3600)
        self.seconds_before, self.steps_before = 0.0, 0
        self.peak, self.precision = peak, precision
        self.seed, self.started_from = seed, ""
        self.previous_runs: list[PastRun] = []
        self.saved_at = self.drawn_at = -math.inf
        self.good: list[np.ndarray] = []

    def progress(self) -> float:
        """Return the share of the run's time that has passed, 0 to 1."""
        return min(1.0, (time.monotonic() - self.started) / self.seconds)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the learning rate for this epoch: warm-up, then cosine over the time budget."""
        warm = min(1.0, (epoch + 1) * self.part.steps_per_epoch / self.part.warm_up_steps)
        # The last epoch is the one that ends at the end of the time: cosine to 2 % there.
        rate = self.peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress())))
        self.model.optimizer.learning_rate = rate
        self.epoch_started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check that loss and weights are finite; log, save and draw when it is time."""
        loss = float((logs or {}).get("loss", math.nan))
        # The last step of an epoch may spoil the weights after a loss that was still finite.
        if not (math.isfinite(loss) and all(map(_finite, self.model.network.variables))):
            self._restore_good_weights()
            return
        now = time.monotonic()
        steps = self.steps_before + (epoch + 1) * self.part.steps_per_epoch
        last = now + (now - self.epoch_started) / 2 > self.started + self.seconds
        line: dict[str, Any] = {
            "step": steps,
            "seconds": round(self.seconds_before + now - self.started, 1),
            "loss": round(loss, 6),
            "rate": round(float(self.model.optimizer.learning_rate), 7),
        }
        saving = last or now - self.saved_at > SAVE_SECONDS
        if saving:
            line |= self._save_averages(draw=last or now - self.drawn_at > PREVIEW_SECONDS)
            self._save_state(steps)
            self.saved_at = time.monotonic()
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        left = max(0.0, self.started + self.seconds - time.monotonic())
        done = "#" * int(20 * self.progress())
        figures = "  ".join(f"{name} {value}" for name, value in line.items() if name not in ("step", "seconds"))
        print(
            f"{self.recipe.id}:{self.part_name} [{done:<20}] step {steps}  {figures}  {left / 60:.1f} min left",
            file=sys.stderr,
            flush=True,
        )
        if last:
            self.model.stop_training = True

    def _save_averages(self, *, draw: bool) -> dict[str, float]:
        """Measure and save the averaged weights, draw them if asked, and put the current ones back."""
        variables, network = self.model.trainable_variables, self.model.network
        current = [ops.convert_to_numpy(variable) for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)
        figures = {name: round(value, 4) for name, value in self.part.validate(network, self.packs).items()}
        _replace(self.folder / "weights.weights.h5", network.save_weights)
        self.good = [ops.convert_to_numpy(variable) for variable in network.variables]
        if draw:
            _write_png(self.folder / "sheet.png", self.part.preview_grid(network, self.packs))
            self.drawn_at = time.monotonic()
        for variable, value in zip(variables, current, strict=True):
            variable.assign(value)
        return figures

    def _restore_good_weights(self) -> None:
        """Restore the last good averages and halve the rate. Raises FloatingPointError where there are none."""
        if not self.good:
            raise FloatingPointError(
                f"{self.recipe.id}:{self.part_name}: the loss is NaN or infinite from the start; lower --rate"
            )
        print(
            "the loss is NaN or infinite; continuing from the last good weights with half the learning rate",
            file=sys.stderr,
            flush=True,
        )
        for variable, value in zip(self.model.network.variables, self.good, strict=True):
            variable.assign(value)
        # Step 0 again: only there do averages begin at the weights, and are new moments bias-corrected.
        for variable in self.model.optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(np.zeros(variable.shape, variable.dtype))
        self.peak /= 2
        if self.progress() >= 1:
            self.model.stop_training = True

    def _save_state(self, steps: int) -> None:
        state = {f"v{i}": ops.convert_to_numpy(v) for i, v in enumerate(_state(self.model))}
        seconds = self.seconds_before + time.monotonic() - self.started
        _replace(self.folder / "state.npz", lambda path: np.savez(path, steps=steps, seconds=seconds, **state))
        facts = {
            "command": "python -m training " + " ".join(sys.argv[1:]),
            "steps": steps,
            "seconds": round(seconds),
            "seed": self.seed,
            "device": device(),
            "precision": self.precision,
            "started_from": self.started_from,
            PREVIOUS_RUNS: self.previous_runs,
        }
        _replace(self.folder / RUN, lambda path: path.write_text(json.dumps(facts, indent=1) + "\n"))


def device() -> str:
    """Return the hardware that trains here, in words."""
    kinds = {str(name).partition(":")[0] for name in keras.distribution.list_devices()}
    cores = f"{os.cpu_count()} CPU cores"
    return cores if kinds <= {"cpu"} else f"{', '.join(sorted(kinds - {'cpu'}))} and {cores}"


def _finite(variable: Any) -> bool:
    return bool(np.isfinite(ops.convert_to_numpy(variable)).all())


def _state(learner: Learner) -> list[Any]:
    return [*learner.network.variables, *learner.optimizer.variables, learner.seed.state]


def _replace(target: Path, save: Any) -> None:
    """Save to a file beside `target`, then rename it: an interruption leaves the old file."""
    temporary = target.with_name("next-" + target.name)
    save(temporary)
    temporary.replace(target)


def _write_png(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(picture).save(path)


def train(
    recipe: Recipe,
    part_name: str,
    packs: Packs,
    out: Path,
    *,
    started: float,
    hours: float,
    resume: bool = False,
    weights: Path | None = None,
    seed: int = 0,
    batch: int | None = None,
    rate: float | None = None,
    precision: str = "float32",
) -> Path:
    """Train one part until `hours` after `started` (`time.monotonic`) and return the folder of its results.

    The folder `out/<recipe>/<part>` gets `weights.weights.h5` (averaged), `state.npz` (to resume), `log.jsonl` and
    `sheet.png` (the preview grid). They are renewed every minute, the grid every ten. `weights` is a `.weights.h5` or a
    published model's folder to start from; variables are matched by name and shape, and `run.json` lists the runs that
    made it. `precision` is
    `float32`, `bfloat16` (computes in bfloat16; weights and averages are float32) or `auto` (see `choose_precision`).
    """
    part = recipe.parts[part_name]
    folder = out / recipe.results / part_name
    folder.mkdir(parents=True, exist_ok=True)
    peak = part.learning_rate if rate is None else rate
    batch = batch or part.batch
    if precision == "auto":
        precision = choose_precision(part, packs, f"{recipe.id}:{part_name}", seed=seed, batch=batch)
    learner = _build_learner(part, seed, peak, precision)
    network = learner.network

    run = RunCallback(recipe, part_name, packs, folder, started, hours, seed, peak, precision)
    state = folder / "state.npz"
    if resume and state.is_file():
        with np.load(state) as saved:
            kept = [saved[f"v{i}"] for i in range(len(saved.files) - 2)]
            if [value.shape for value in kept] != [tuple(variable.shape) for variable in _state(learner)]:
                raise BadInitialWeights(
                    f"{state} does not fit the current network of {recipe.id}:{part_name}; leave out --resume"
                )
            for variable, value in zip(_state(learner), kept, strict=True):
                variable.assign(value)
            run.seconds_before, run.steps_before = float(saved["seconds"]), int(saved["steps"])
        if (folder / RUN).is_file():
            facts = json.loads((folder / RUN).read_text(encoding="utf-8"))
            run.started_from, run.previous_runs = facts.get("started_from", ""), read_previous_runs(facts)
        print(f"{recipe.id}:{part_name}: resumed at step {run.steps_before}", file=sys.stderr, flush=True)
    else:
        if resume:
            print(
                f"{recipe.id}:{part_name}: {state} does not exist; starting a new training", file=sys.stderr, flush=True
            )
        name = f"{recipe.id}:{part_name}"
        sources = _initial_weights(weights, recipe, part_name, out, packs)
        for source in sources:
            taken = load_initial_weights(network, source, part_name, part.convert_weights)
            # A part that this one starts from belongs to the same model, which counts its run anyway.
            run.previous_runs = previous_runs(source) if weights is not None else []
            print(f"{name}: loaded {taken} variables from {source}", file=sys.stderr, flush=True)
        run.started_from = ", ".join(map(_source_name, sources))
        part.prepare(network, packs)
        (folder / "log.jsonl").unlink(missing_ok=True)

    batches = _Batches(part.batches(packs, seed, batch), run.steps_before)
    learner.fit(batches, epochs=10**6, steps_per_epoch=part.steps_per_epoch, callbacks=[run], shuffle=False, verbose=0)
    return folder


def _build_learner(part: Part, seed: int, peak: float, precision: str) -> Learner:
    """Return a new network of `part` with its loss and optimizer, computing in `precision`."""
    keras.utils.set_random_seed(seed)
    with dtype_policy(precision):
        network = part.network()
    # Layers cast for themselves. Cast for the whole network, a picture that a residual is added to would be rounded.
    network.autocast = False
    learner = Learner(network, part, seed)
    optimizer = keras.optimizers.AdamW(
        peak,
        weight_decay=part.weight_decay,
        beta_1=part.momentum,
        use_ema=True,
        ema_momentum=part.ema,
        global_clipnorm=1.0,
    )
    learner.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    optimizer.build(learner.trainable_variables)
    return learner


def choose_precision(part: Part, packs: Packs, name: str, *, seed: int, batch: int) -> str:
    """Return the precision in which a training step of `part` is faster here: `float32` or `bfloat16`.

    One step is timed in each, after one warm-up step. Where nothing computes bfloat16 faster, it is `float32` without
    measuring. The choice is printed after `name`.
    """
    if not has_fast_bfloat16():
        print(
            f"{name}: precision float32 (this machine has no GPU and no instructions for bfloat16)",
            file=sys.stderr,
            flush=True,
        )
        return "float32"
    inputs = dict(part.batches(packs, seed, batch)(0))
    seconds = {precision: _step_seconds(part, inputs, seed, precision) for precision in PRECISIONS}
    chosen = min(PRECISIONS, key=lambda precision: seconds[precision])
    times = ", ".join(f"{precision} {value:.3f} s" for precision, value in seconds.items())
    print(f"{name}: precision {chosen} (one step: {times})", file=sys.stderr, flush=True)
    return chosen


def _step_seconds(part: Part, inputs: dict[str, np.ndarray], seed: int, precision: str) -> float:
    learner = _build_learner(part, seed, part.learning_rate, precision)
    learner.train_on_batch(inputs)  # compiles
    began = time.monotonic()
    learner.train_on_batch(inputs)
    return time.monotonic() - began


def _initial_weights(given: Path | None, recipe: Recipe, part_name: str, out: Path, packs: Packs) -> list[Path]:
    """Return the initial weights of a first training: what --from names, else `first_weights`, else those of `start`.

    Raises MissingPack.
    """
    if given is not None:
        return [given / recipe.id / f"{part_name}.npz" if (given / recipe.id).is_dir() else given]
    part = recipe.parts[part_name]
    if part.first_weights or part.start is None:
        return [packs.weights(file) for file in part.first_weights]
    built_upon = out / recipe.results / part.start / "weights.weights.h5"
    return [built_upon] if built_upon.is_file() else []


def _source_name(source: Path) -> str:
    return "/".join(source.parts[-3:]) if source.is_dir() else f"{source.parent.name} ({source.name})"
