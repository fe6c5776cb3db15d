"""A dataset archive holds what training needs, no test picture, and gives the same batches if it is small enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from training import archive as module
from training.archive import MAX_MEBIBYTES, ArchiveTooLarge, write_archive
from training.cli import main
from training.data.packs import MissingPack, Packs
from training.recipe import Part, Recipe, load

if TYPE_CHECKING:
    import keras

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class Named(Recipe):
    def build_parts(self) -> dict[str, Part]:
        return {}


def recipe(*packs: str, name: str = "tiny", task: str = "denoise") -> Recipe:
    """Return a recipe that only names its packs."""
    named = Named(f"{task}_{name}")
    named.packs = packs
    return named


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two packs: photographs in `train` and `test`, digits in files."""
    for folder, count in (("photos/train", 3), ("photos/test/Set5", 2), ("faces/train", 1), ("faces/test", 1)):
        (tmp_path / "packs" / folder).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "packs" / folder / f"{index}.webp", lossless=True)
    (tmp_path / "packs/photos/SOURCES.tsv").write_text("file\n")
    (tmp_path / "packs/digits").mkdir()
    for name in ("train10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / "packs/digits" / name).write_bytes(b"digits")
    return tmp_path / "packs"


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_archive_holds_the_packs_but_nothing_to_test_on(root: Path, tmp_path: Path) -> None:
    lines = list(write_archive([recipe("photos"), recipe("digits", name="digits")], Packs(root), tmp_path / "archive"))
    assert len(lines) == 2
    assert lines[0].startswith("denoise_tiny: 0.0 MiB")
    assert inside(tmp_path / "archive") == {
        "photos/SOURCES.tsv", "photos/train/0.webp", "photos/train/1.webp", "photos/train/2.webp",
        "digits/train10k-images-idx3-ubyte.gz",
    }  # fmt: skip


def test_an_archive_holds_the_weights_that_are_read_and_says_where_they_are_looked_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESTORE_WEIGHTS", raising=False)
    taught = recipe("faces")
    taught.weights = ("segment/teacher.npz",)
    with pytest.raises(MissingPack, match=r"'segment/teacher.npz' are not in .*packs/weights; .*RESTORE_WEIGHTS"):
        list(write_archive([taught], Packs(root), tmp_path / "archive"))
    monkeypatch.setenv("RESTORE_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights/segment").mkdir(parents=True)
    (tmp_path / "weights/segment/teacher.npz").write_bytes(b"weights")
    list(write_archive([taught], Packs(root), tmp_path / "archive"))
    assert inside(tmp_path / "archive") == {"faces/train/0.webp", "weights/segment/teacher.npz"}
    monkeypatch.delenv("RESTORE_WEIGHTS")
    assert Packs(tmp_path / "archive").weights("segment/teacher.npz").read_bytes() == b"weights"


def test_an_archive_is_taken_as_the_packs_are(root: Path, tmp_path: Path) -> None:
    list(write_archive([recipe("photos")], Packs(root), tmp_path / "archive"))
    ours, theirs = (Packs(folder).pictures("photos/train") for folder in (tmp_path / "archive", root))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(MissingPack):
        Packs(tmp_path / "archive").pictures("photos/test/Set5")


def test_too_much_is_refused_and_says_how_much(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(path.stat().st_size for path in (root / "photos/train").iterdir()) / 2**20
    monkeypatch.setattr(module, "MAX_MEBIBYTES", size * 0.9)
    with pytest.raises(ArchiveTooLarge, match=r"the smallest archive of denoise_tiny has \d+\.\d MiB"):
        list(write_archive([recipe("photos")], Packs(root), tmp_path / "archive"))
    assert not (tmp_path / "archive").exists()
    monkeypatch.setattr(module, "MAX_MEBIBYTES", size * 1.1)
    assert list(write_archive([recipe("photos")], Packs(root), tmp_path / "archive"))


def test_an_archive_needs_a_folder_of_its_own(root: Path, tmp_path: Path) -> None:
    # Training would read what an older archive left there, too.
    list(write_archive([recipe("photos")], Packs(root), tmp_path / "archive"))
    before = inside(tmp_path / "archive")
    with pytest.raises(FileExistsError, match="is not empty"):
        list(write_archive([recipe("faces")], Packs(root), tmp_path / "archive"))
    assert inside(tmp_path / "archive") == before


def photographs(folder: Path, count: int, suffix: str = ".jpg") -> float:
    """Fill `folder` with soft noise, large files of it, and return how many MiB they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16), np.uint8)
        soft = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        soft.convert("RGB").save(folder / f"{index:03}{suffix}", quality=99, subsampling=0)
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20


def test_photographs_become_webp_where_an_archive_is_too_large_and_no_recipe_learns_their_pixels(
    tmp_path: Path,
) -> None:
    size = photographs(tmp_path / "packs/photos/train", 5)
    (tmp_path / "packs/photos/train/labels.png").write_bytes(b"ids")
    packs, segment = Packs(tmp_path / "packs"), recipe("photos", task="segment")

    (line,) = write_archive([segment], packs, tmp_path / "roomy", most=2 * size)
    assert line.startswith("segment_tiny: ")
    assert inside(tmp_path / "roomy") == {f"photos/train/{n:03}.jpg" for n in range(5)} | {"photos/train/labels.png"}

    lines = list(write_archive([segment], packs, tmp_path / "tight", most=0.8 * size))
    assert lines[0].startswith("5 photographs of photos as WebP of quality 90: ")
    assert inside(tmp_path / "tight") == {f"photos/train/{n:03}.webp" for n in range(5)} | {"photos/train/labels.png"}
    assert (tmp_path / "tight/photos/train/labels.png").read_bytes() == b"ids"
    assert sum(file.stat().st_size for file in (tmp_path / "tight/photos/train").iterdir()) <= 0.8 * size * 2**20
    for root in ("packs", "tight"):
        (tmp_path / root / "photos/train/labels.png").unlink()
    ours, theirs = (Packs(tmp_path / root).pictures("photos/train") for root in ("tight", "packs"))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert np.abs(mine.astype(float) - other).mean() < 4


@pytest.mark.parametrize("task", ["denoise", "superres"])
def test_what_learns_exact_pixels_gets_them_and_rather_fewer_pictures(task: str, tmp_path: Path) -> None:
    from training.data.crops import validation_split

    size = photographs(tmp_path / "packs/photos/train", 100)
    photographs(tmp_path / "packs/person/train/images", 100)
    packs = Packs(tmp_path / "packs")
    # A recipe that can use lossy photographs shares them with one that cannot.
    recipes = [recipe("photos", name="exact", task=task), recipe("photos", name="any", task="segment")]
    lines = list(write_archive(recipes, packs, tmp_path / "archive", most=0.8 * size))
    assert lines[0] == "32 pictures of photos/train are left out"
    reduced = Packs(tmp_path / "archive")
    assert len(reduced.files("photos/train")) == 68
    for file in reduced.files("photos/train"):
        assert file.read_bytes() == (packs.root / "photos/train" / file.name).read_bytes()
    held_out, held_out_before = (
        {str(name) for name in validation_split([np.array(file.name) for file in one.files("photos/train")])[1]}
        for one in (reduced, packs)
    )
    assert held_out < held_out_before


def test_no_more_than_every_other_picture_is_left_out_and_labelled_ones_never(tmp_path: Path) -> None:
    size = photographs(tmp_path / "packs/photos/train", 100)
    labelled = photographs(tmp_path / "packs/person/train/images", 100)
    packs = Packs(tmp_path / "packs")
    with pytest.raises(ArchiveTooLarge, match=r"the smallest archive of .* raise --most"):
        list(write_archive([recipe("photos")], packs, tmp_path / "archive", most=0.3 * size))
    with pytest.raises(ArchiveTooLarge, match=r"the smallest archive of .* raise --most"):
        list(write_archive([recipe("person")], packs, tmp_path / "archive", most=0.9 * labelled))
    assert not (tmp_path / "archive").exists()


def test_a_missing_pack_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPack, match="'street'"):
        list(write_archive([recipe("street")], Packs(root), tmp_path / "archive"))


@pytest.mark.tf
def test_the_newest_weights_go_along_to_start_from(root: Path, tmp_path: Path) -> None:
    from tests.training import tiny
    from training.checkpoints import load_initial_weights
    from training.export.savedmodel import save
    from training.trainer import _initial_weights

    whole = tiny.recipe()
    networks = {version: plain() for version in (2, 9, 10)}
    for version, network in networks.items():
        save({"denoise": network}, tmp_path / f"repository/denoise/tiny/{version}")
    whole.packs = ("photos",)
    list(write_archive([whole], Packs(root), tmp_path / "archive", tmp_path / "repository"))
    # Not published with a manifest: nobody knows what it took.
    assert json.loads((tmp_path / "archive/start/denoise_tiny/run.json").read_text()) == {"previous_runs": []}
    with np.load(tmp_path / "archive/start/denoise_tiny/denoise.npz") as arrays:
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}
    (source,) = _initial_weights(tmp_path / "archive/start", whole, "denoise", tmp_path / "runs", Packs(root))
    fresh = plain()
    assert load_initial_weights(fresh, source, "denoise") == len(fresh.weights)
    for ours, theirs in zip(fresh.get_weights(), networks[10].get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert np.abs(fresh.get_weights()[0] - networks[9].get_weights()[0]).max() > 1e-2


def plain() -> keras.Model:
    """Return a network of two convolutions with random weights."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    return keras.Model({"image": image}, {"image": layers.Conv2D(3, 3, padding="same", name="last")(x)}, name="plain")


@pytest.mark.tf
def test_without_a_published_model_there_is_no_start(root: Path, tmp_path: Path) -> None:
    list(write_archive([recipe("photos")], Packs(root), tmp_path / "archive", tmp_path / "repository"))
    assert not (tmp_path / "archive/start").exists()


def test_the_command_writes_an_archive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.commands.load", lambda name: recipe("photos", name=name))
    command = ["pack", "tiny", "tiny:denoise", "--data", str(root), "--out", str(tmp_path / "archive")]
    assert main(command) == 0
    assert capsys.readouterr().out.count("MiB") == 1
    assert "photos/train/0.webp" in inside(tmp_path / "archive")
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    command[-1] = str(tmp_path / "small")
    assert main([*command, "--most", "0.0001"]) == 2
    assert "more than 0.0001; raise --most" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


@pytest.mark.tf
@pytest.mark.data
@pytest.mark.parametrize("name", ["superres_photo", "denoise_digits"])
def test_an_archive_gives_the_batches_of_the_packs(packs: Packs, tmp_path: Path, name: str) -> None:
    whole = load(name)
    list(write_archive([whole], packs, tmp_path))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= MAX_MEBIBYTES * 2**20
    assert not [path for path in inside(tmp_path) if "test" in path or "t10k" in path]
    part = next(iter(whole.parts.values()))
    ours, theirs = (part.batches(source, 3, 16)(5) for source in (Packs(tmp_path), packs))
    assert set(ours) == set(theirs)
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])
