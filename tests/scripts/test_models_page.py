"""The pages generated from the manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import manifest as contract
from models.manifest import QualityTable
from scripts import models_page
from tests.model_repository import manifest

EXAMPLES = sorted((Path(__file__).parent.parent / "contract/examples").rglob("*.json"))


def put(root: Path, version: int, *, default: bool) -> None:
    folder = root / "denoise/blur" / str(version)
    folder.mkdir(parents=True)
    contract.write(manifest(name="blur", version=version, default=default), folder)


def test_the_newest_version_is_shown_and_its_name_stays_the_default(tmp_path: Path) -> None:
    put(tmp_path, 9, default=True)
    put(tmp_path, 10, default=False)
    (found,) = models_page.newest(tmp_path)
    assert found.version == 10
    assert "(default of `/denoise`)" in models_page.index([found])
    assert "`denoise/blur`" in models_page.short_table([found])


def test_an_empty_repository_has_an_empty_table(tmp_path: Path) -> None:
    assert models_page.newest(tmp_path / "nothing") == []
    assert models_page.short_table([]).count("\n") == 1


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_kind_of_model_has_a_section(path: Path) -> None:
    model = contract.parse(path.read_bytes())
    text = models_page.page([model])
    assert f"## {model.task}/{model.name}\n" in text
    assert model.description in text
    assert model.provenance.command in text
    for table in model.quality:
        assert table.title in text


def test_table_cells_are_escaped() -> None:
    text = models_page.table(
        QualityTable(title="t", command="c", columns=["a", "b"], rows=[["x|y", 31.456], ["z", 0.9299]])
    )
    assert "| x\\|y | 31.46 |" in text
    assert "| z | 0.9299 |" in text


def quality(column: str, *rows: tuple[str, float | str]) -> list[QualityTable]:
    return [QualityTable(title="Noise", command="c", columns=["", column], rows=[list(row) for row in rows])]


def test_the_readme_shows_the_default_models_only_with_the_best_other_row() -> None:
    figures = quality("CBSD68 σ 25", ("A", 30.5), ("B", 32.25), ("C", ""), ("denoise/blur", 31.5))
    text = f"{models_page.BEGIN}{models_page.END}"
    shown, hidden = (
        models_page.readme(text, [manifest(name="blur", default=default, quality=figures)]) for default in (True, False)
    )
    assert shown.splitlines()[3].endswith("| 31.50 | 32.25, B |")
    assert "denoise/blur" not in hidden


def test_for_a_distance_the_best_other_row_is_the_smallest() -> None:
    figures = quality("style", ("untouched", 1.0), ("A", 0.2), ("stylize/blur", 0.25))
    model = manifest(name="blur", default=True, quality=figures).model_copy(update={"task": "stylize"})
    assert models_page.headline(model)[1:] == ("0.25", "0.20, A")


def test_a_quality_table_without_the_row_of_its_model_is_an_error() -> None:
    model = manifest(name="blur", default=True, quality=quality("CBSD68 σ 25", ("A", 30.5)))
    with pytest.raises(ValueError, match="'Noise' has no row of the model"):
        models_page.headline(model)


def test_only_the_table_of_the_readme_changes() -> None:
    text = f"before\n{models_page.BEGIN}\nold\n{models_page.END}\nafter\n"
    made = models_page.readme(text, [manifest(name="blur")])
    assert made.startswith(f"before\n{models_page.BEGIN}\n| default model")
    assert made.endswith(f"{models_page.END}\nafter\n")
    assert "old" not in made
    assert models_page.readme(made, [manifest(name="blur")]) == made


def test_the_evaluation_shows_what_the_default_denoiser_does_to_clean_pictures() -> None:
    noisy = QualityTable(title="Noise", command="c", columns=["", "a"], rows=[["x", 30.5]])
    clean = QualityTable(title="Clean pictures, PSNR", command="c", columns=["", "a"], rows=[["Kodak24", 48.25]])
    text = f"{models_page.BEGIN}\nold\n{models_page.END}"
    shown, hidden = (
        models_page.evaluation(text, [manifest(name="blur", default=default, quality=[noisy, clean])])
        for default in (True, False)
    )
    assert "| Kodak24 | 48.25 |" in shown
    assert "Noise" not in shown + hidden
    assert "Kodak24" not in hidden
    assert "old" not in shown + hidden


@pytest.mark.parametrize(("number", "text"), [(7, "7"), (2_425, "2.4 k"), (660_000, "660 k"), (2_400_000, "2.4 M")])
def test_short_numbers(number: int, text: str) -> None:
    assert models_page.count(number) == text
