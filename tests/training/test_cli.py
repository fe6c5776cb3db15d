"""The command line: an expected error is one line on standard error, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training.cli import main
from training.data.packs import Packs

pytestmark = [
    pytest.mark.tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


def test_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    from training.recipe import names

    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == names()
    assert "denoise/digits-autoencoder" in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "denoise_foto"], "did you mean 'denoise_photo'?"),
        (["train", "denoise_photo:estimat"], "its parts are denoise, denoise_correlated, estimate"),
        (["evaluate", "denoise_photo:denoise"], "takes a whole recipe"),
        (["evaluate", "denoise_digits"], "python -m training train denoise_digits:denoise"),
        (["evaluate", "denoise_digits", "--repository", "."], "has no model denoise/digits"),
        (["evaluate", "denoise_digits", "--url", "http://localhost:1"], "cannot be evaluated through a service"),
        (["publish", "denoise_digits"], "does not exist"),
        (["quantize", "denoise_digits", "--repository", "."], "has no model denoise/digits"),
        (["quantize", "denoise_digits:denoise"], "takes a whole recipe"),
        (["publish", "dcgan_digits"], "cannot be published"),
        (["sheet", "denoise_digits"], "does not exist"),
        (["sheet", "denoise_photo", "--repository", "."], "--repository needs --to"),
        (["sheet", "denoise_photo", "--to", "grids"], "does not exist"),
        (["sample", "dcgan_digits"], "python -m training train dcgan_digits:dcgan"),
        (["sample", "denoise_digits"], "is not a generator"),
        (["pack", "denoise_digits"], "data pack 'digits' is not in"),
        (["pack", "denoise_digits", "--from", "nowhere"], "model repository nowhere does not exist"),
    ],
)
def test_says_what_to_do(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("training: ")
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("--hours", "0"),
        ("--hours", "-1"),
        ("--hours", "nan"),
        ("--hours", "soon"),
        ("--rate", "0"),
        ("--batch", "0"),
        ("--batch", "1.5"),
        ("--seed", "-1"),
    ],
)
def test_numbers_that_no_training_can_have_are_refused(
    wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "denoise_digits", *wrong])
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {wrong[0]}" in told
    assert wrong[1] in told


def test_the_old_option_for_bfloat16_is_refused_and_names_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "denoise_digits", "--bfloat16"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "training: --bfloat16 is now --precision bfloat16\n"


@pytest.mark.parametrize("command", ["evaluate", "publish", "quantize"])
def test_an_unknown_option_is_refused_in_a_line_that_names_those_there_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "denoise_digits", "--shelf", "."])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"training: {command} has no option --shelf; usage: ")
    assert "[--repository REPOSITORY]" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["train", "denoise_digits"], ["pack", "denoise_digits"]])
def test_a_folder_that_cannot_be_made_is_one_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/train10k-images-idx3-ubyte.gz").write_bytes(b"digits")
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert main([*command, "--data", str(tmp_path), "--out", str(taken / "below")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("training: ")
    assert str(taken) in error
    assert error.count("\n") == 1


def test_where_a_model_cannot_be_put_is_said_before_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    # Nothing was trained here: whoever looked for that first would say so.
    assert main(["publish", "denoise_digits", "--out", str(tmp_path), "--repository", str(taken / "repository")]) == 2
    error = capsys.readouterr().err
    assert str(taken) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["export", "publish", "quantize"])
def test_what_only_tensorflow_can_do_is_refused_elsewhere(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    options = {"export": "--to", "publish": "--repository", "quantize": "--repository"}
    root = [options[command], str(tmp_path / "repository")]
    assert main([command, "denoise_digits", "--out", str(tmp_path), *root]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"training: {command} needs TensorFlow; set KERAS_BACKEND=tensorflow")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["export", "publish"])
def test_a_model_that_cannot_be_published_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from models.repository import RepositoryError
    from training.export.savedmodel import SavedModelMismatch

    def fails(error: Exception) -> Callable[..., None]:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        return fail

    where = {"export": "training.export.savedmodel.export", "publish": "training.export.publish.publish"}[command]
    errors = [SavedModelMismatch("signature denoise: the SavedModel differs from the network by 0.3")]
    errors += (
        [RepositoryError(["denoise/digits@2 was published by another process in the meantime"])]
        if command == "publish"
        else []
    )
    for error in errors:
        monkeypatch.setattr(where, fails(error))
        to = ["--to" if command == "export" else "--repository", str(tmp_path / "repository")]
        assert main([command, "denoise_digits", "--out", str(tmp_path), *to]) == 2
        assert capsys.readouterr().err == f"training: denoise_digits: {error}\n"


def test_an_incomplete_pack_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.evaluation import denoising

    for folder in ("Kodak24", "B100"):
        (tmp_path / "photos/test" / folder).mkdir(parents=True)
    (tmp_path / "photos/test/CBSD68_names.txt").write_text("101085\n")

    def measured(recipe: object, url: str, packs: Packs) -> None:
        denoising.load_cbsd68(packs)

    monkeypatch.setattr("training.recipes.denoise_photo.DenoisePhoto.evaluate_service", measured)
    assert main(["evaluate", "denoise_photo", "--data", str(tmp_path), "--url", "http://localhost:1"]) == 2
    assert capsys.readouterr().err == "training: photos/test/B100 has 0 of the 68 pictures of CBSD68\n"


def test_a_package_that_is_not_installed_is_one_line_and_a_module_of_ours_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(name: str) -> Callable[[str], None]:
        def fail(recipe: str) -> None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        return fail

    monkeypatch.setattr("training.commands.load", fails("jax"))
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "training: the package jax is not installed; run make setup or pip install jax\n"
    monkeypatch.setattr("training.commands.load", fails("training.gone"))
    with pytest.raises(ModuleNotFoundError):
        main(["list"])


def test_a_missing_pack_ends_a_run_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", "train", "denoise_digits", "--data", str(tmp_path), "--out", "runs"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "data pack 'digits' is not in" in done.stderr


def test_a_generator_draws_the_same_grid_for_the_same_seed(tmp_path: Path) -> None:
    from training.recipe import load
    from training.runs import find_weights

    recipe = load("dcgan_digits")
    folder = tmp_path / recipe.id / "dcgan"
    folder.mkdir(parents=True)
    recipe.parts["dcgan"].network().save_weights(folder / "weights.weights.h5")
    assert find_weights(recipe, "dcgan", tmp_path).is_file()
    drawn = []
    for seed in ("1", "1", "2"):
        assert main(["sample", "dcgan_digits", "--out", str(tmp_path), "--seed", seed]) == 0
        drawn.append((tmp_path / recipe.id / "sample.png").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]
