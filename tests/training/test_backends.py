"""The same recipe on TensorFlow and on JAX, and a training package that needs TensorFlow and pydantic only to export.

JAX is no dependency of the project. `RESTORE_JAX_PYTHON` names an interpreter that has it with what `training` needs
(keras, h5py, numpy, opencv, pillow); without it the one that runs the tests is tried, and else the tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.packs import Packs

ROOT = Path(__file__).resolve().parents[2]
TREE = sorted(path.relative_to(ROOT) for path in (ROOT / "training").rglob("*.py"))
MODULES = [
    ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for path in TREE
    if "export" not in path.parts and path.stem != "__main__"
]

# Trains the tiny recipe into `out`, or takes what is there, and says what it measures and holds.
PROGRAM = """
import json, sys, time
from pathlib import Path
import keras
import numpy as np
from tests.training import tiny
from training import trainer
from training.data.packs import Packs
from training.runs import load_trained

out, recipe = Path(sys.argv[1]), tiny.recipe()
if sys.argv[2] == "train":
    trainer.train(recipe, "denoise", Packs(out), out, started=time.monotonic(), hours=0.2 / 3600)
network = load_trained(recipe, out)["denoise"]
np.savez(out / f"{keras.backend.backend()}.npz", *network.get_weights(), answer=tiny.restored(network)[-1])
(table,) = recipe.evaluate({"denoise": network}, Packs(out))
print(json.dumps([keras.backend.backend(), table.rows]))
"""

# Refuses the modules named last to whoever imports the others.
IMPORTS = """
import importlib, sys
if sys.argv[1] == "tensorflow":
    import keras  # the backend's own import is not the package's
for name in sys.argv[2].split():
    sys.modules[name] = None
for name in sys.argv[3].split():
    importlib.import_module(name)
"""


def python(interpreter: str, backend: str, program: str, *arguments: str) -> str:
    """Run `program` in the repository's root on `backend` and return what it printed."""
    environment = os.environ | {"KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [interpreter, "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def jax() -> str:
    """The interpreter that has JAX; without one the test is skipped."""
    interpreter = os.environ.get("RESTORE_JAX_PYTHON") or sys.executable
    program = "import jax, h5py, cv2, PIL, keras"
    done = subprocess.run(
        [interpreter, "-c", program], env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no JAX: RESTORE_JAX_PYTHON names no interpreter with jax, keras, h5py, opencv and pillow")
    return interpreter


def measured(printed: str) -> tuple[str, float, float]:
    """Return (backend, PSNR of the noisy pictures, of the restored ones)."""
    backend, rows = json.loads(printed.splitlines()[-1])
    return backend, rows[0][1], rows[1][1]


def stored(file: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Return (weights, answer) of a program's file."""
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files if name != "answer"], arrays["answer"]


def here(out: Path) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Return (weights, answer, PSNR) of the results in `out`, on TensorFlow."""
    from tests.training import tiny
    from training.runs import load_trained

    recipe = tiny.recipe()
    network = load_trained(recipe, out)["denoise"]
    (table,) = recipe.evaluate({"denoise": network}, Packs(out))
    figure = table.rows[1][1]
    assert isinstance(figure, float)
    return network.get_weights(), tiny.restored(network)[-1], figure


def agree(ours: tuple[Any, ...], theirs: tuple[list[np.ndarray], np.ndarray]) -> None:
    """Assert equal weights, to the bit, and equal answers, to the rounding of two libraries."""
    for mine, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.mark.tf
def test_what_jax_trains_tensorflow_runs(jax: str, tmp_path: Path) -> None:
    backend, noisy, figure = measured(python(jax, "jax", PROGRAM, str(tmp_path), "train"))
    assert backend == "jax"
    assert figure > noisy - 3  # one epoch: it need not be good
    ours = here(tmp_path)
    agree(ours, stored(tmp_path / "jax.npz"))
    assert ours[2] == pytest.approx(figure, abs=1e-3)


@pytest.mark.tf
def test_what_tensorflow_trains_jax_runs(jax: str, tmp_path: Path) -> None:
    import time

    from tests.training import tiny
    from training import trainer

    trainer.train(tiny.recipe(), "denoise", Packs(tmp_path), tmp_path, started=time.monotonic(), hours=0.2 / 3600)
    ours = here(tmp_path)
    backend, _, figure = measured(python(jax, "jax", PROGRAM, str(tmp_path), "evaluate"))
    assert backend == "jax"
    agree(ours, stored(tmp_path / "jax.npz"))
    assert ours[2] == pytest.approx(figure, abs=1e-3)


@pytest.mark.tf
def test_training_imports_neither_tensorflow_nor_the_contract() -> None:
    python(
        sys.executable,
        "tensorflow",
        IMPORTS,
        "tensorflow",
        "tensorflow pydantic skimage httpx models.manifest app",
        " ".join(MODULES),
    )


def test_training_runs_where_there_is_no_tensorflow(jax: str) -> None:
    python(jax, "jax", IMPORTS, "jax", "tensorflow pydantic skimage httpx models.manifest app", " ".join(MODULES))


def test_the_modules_are_found() -> None:
    assert {"training.trainer", "training.commands", "training.recipes.denoise_photo", "training.data.packs"} <= {
        *MODULES
    }
