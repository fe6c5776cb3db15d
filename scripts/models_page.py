"""Generates docs/models.md, and tables in the README and docs/evaluation.md, from the published manifests.

`python -m scripts.models_page` writes them; `--check` only checks that they are up to date (exit code 1 if not).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from models import manifest as contract
from models import repository
from models.manifest import Manifest, QualityTable

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "models/published"
PAGE = ROOT / "docs/models.md"
README = ROOT / "README.md"
EVALUATION = ROOT / "docs/evaluation.md"
CLEAN = "Clean pictures"
"""How the titles of the tables begin that docs/evaluation.md shows."""
BEGIN, END = "<!-- models: made by `make docs` -->", "<!-- end of models -->"


@dataclass(frozen=True, slots=True)
class Headline:
    """The figure that the README shows for a task: a column of the first quality table of its default model."""

    column: str
    label: str
    lower_is_better: bool = False


HEADLINES = {
    "denoise": Headline("CBSD68 σ 25", "PSNR (dB), CBSD68 with noise of σ 25"),
    "inpaint": Headline("10-20 %", "PSNR (dB) in holes of 10–20 %, Kodak24"),
    "segment": Headline("IoU of the foreground", "IoU (%) of the main object, ECSSD"),
    "stylize": Headline("style", "distance to the style, 0 is best", lower_is_better=True),
    "superres": Headline("Set5 ×4", "PSNR (dB), Set5 ×4"),
}
"""By task. The best other row of the same table is shown beside the figure."""


def newest(root: Path) -> list[Manifest]:
    """Return the manifest of the newest version of each model in the repository `root`, sorted by task and name."""
    found: dict[tuple[str, str], Manifest] = {}
    for folder in repository.folders([root]):
        manifest = contract.read(folder)
        # A name stays its task's default when a newer version comes without the mark.
        marked = any(
            repository.is_default(other) for other in (manifest, found.get((manifest.task, manifest.name))) if other
        )
        defaults = manifest.defaults | ({"default": True} if marked else {})
        found[manifest.task, manifest.name] = manifest.model_copy(update={"defaults": defaults})
    return [found[key] for key in sorted(found)]


def count(number: int) -> str:
    """Return a number of parameters in short form: 2.4 M, 13 k."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number / size:.2g} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return str(number)


def scales(manifest: Manifest) -> str:
    factors = sorted({signature.scale for signature in manifest.signatures.values()} - {1})
    return ", ".join(f"×{factor}" for factor in factors)


def short_table(manifests: list[Manifest]) -> str:
    """Return the README's table: the default model of each task, one figure, and the best other row of its table."""
    lines = ["| default model | figure | ours | best other |", "|---|---|---|---|"]
    for manifest in filter(repository.is_default, manifests):
        name = f"[`{manifest.task}/{manifest.name}`](docs/models.md#{anchor(manifest)})"
        lines.append(f"| {name} | {' | '.join(headline(manifest))} |")
    return "\n".join(lines)


def headline(manifest: Manifest) -> tuple[str, str, str]:
    """Return what is measured, the model's figure, and the best other one; dashes if nothing is measured.

    Raises ValueError if the first quality table lacks the column of `HEADLINES` or the model's own row.
    """
    if not manifest.quality:
        return "–", "–", "–"
    chosen, entry = HEADLINES[manifest.task], manifest.quality[0]
    column = entry.columns.index(chosen.column)
    figures = {str(row[0]): value for row in entry.rows if isinstance(value := row[column], int | float)}
    own = f"{manifest.task}/{manifest.name}"
    if own not in figures:
        raise ValueError(f"{own}: the table {entry.title!r} has no row of the model")
    value = figures.pop(own)
    if not figures:
        return chosen.label, f"{value:.2f}", "–"
    best = min(figures, key=figures.__getitem__) if chosen.lower_is_better else max(figures, key=figures.__getitem__)
    return chosen.label, f"{value:.2f}", f"{figures[best]:.2f}, {best}"


def anchor(manifest: Manifest) -> str:
    return f"{manifest.task}{manifest.name}"


def table(entry: QualityTable) -> str:
    """Return a quality table as Markdown, with its command and note."""
    return f"{grid(entry)}\n\n`{entry.command}`" + (f" — {entry.note}" if entry.note else "")


def grid(entry: QualityTable) -> str:
    """Return the title and the cells of a quality table as Markdown."""
    lines = [f"**{entry.title}**", "", "| " + " | ".join(entry.columns) + " |", "|---" * len(entry.columns) + "|"]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in entry.rows]
    return "\n".join(lines)


def cell(value: str | float) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|")
    return f"{value:.4f}" if abs(value) < 1 and value != int(value) else f"{value:.2f}".removesuffix(".00")


def section(manifest: Manifest) -> str:
    """Return the section of docs/models.md for one model."""
    provenance = manifest.provenance
    geometry = manifest.geometry
    takes = {
        "tiled": f"any size, computed in tiles of {geometry.tile_size} px or more with a halo of {geometry.halo} px",
        "canonical": "any size, resized to one of " + ", ".join(f"{h}×{w}" for h, w in geometry.canonical_sizes),
        "fixed": "exactly " + ", ".join(f"{h}×{w}" for h, w in geometry.valid_sizes),
        "whole": "any size, computed without tiles",
    }[geometry.kind]
    facts = [
        f"* Version: {manifest.version}, {manifest.created}",
        f"* Architecture: {manifest.architecture}",
        f"* Size: {count(manifest.parameters)} parameters, "
        f"{count(manifest.flops_per_pixel)} floating point operations per pixel",
        f"* Input: {takes}" + (f"; enlarges {scales(manifest)}" if scales(manifest) else ""),
        f"* Training: {provenance.hours:g} h on {provenance.device}, {provenance.steps} steps, seed {provenance.seed}, "
        f"in {provenance.precision}",
        f"* Command: `{provenance.command}`",
        *([f"* Started from: {provenance.started_from}"] if provenance.started_from else []),
        *[f"* Starting weights: {one.name}, {one.licence}" for one in provenance.starts],
        f"* Data: {', '.join(sorted(provenance.data)) or 'none'}",
        f"* License: {manifest.licence}",
    ]
    default = f", the default of `/{manifest.task}`" if repository.is_default(manifest) else ""
    parts = [
        f"## {manifest.task}/{manifest.name}",
        f"*{manifest.title}*{default}",
        manifest.description,
        "\n".join(facts),
        *(table(entry) for entry in manifest.quality),
    ]
    return "\n\n".join(parts)


def page(manifests: list[Manifest]) -> str:
    """Return docs/models.md."""
    head = (
        "# Models\n\n"
        "Every published model: what it is for, how it was trained, and its figures beside those of other methods.\n"
        "[Evaluation](evaluation.md) explains the figures and how they are measured;\n"
        "[training results](training/results.md) has the targets and the next steps.\n\n"
        "This page is generated from the manifests in `models/published` by `make docs`. A running service returns\n"
        "the same for every version that it holds: `GET /models` and `GET /models/{task}/{name}`. The folders have\n"
        "TensorFlow Serving's layout, `<task>/<name>/<version>/`.\n"
    )
    return "\n\n".join([head.rstrip(), index(manifests), *(section(manifest) for manifest in manifests)]) + "\n"


def index(manifests: list[Manifest]) -> str:
    """Return the table of all models at the head of docs/models.md."""
    lines = ["| model | title | parameters |", "|---|---|---|"]
    for manifest in manifests:
        default = f" (default of `/{manifest.task}`)" if repository.is_default(manifest) else ""
        name = f"[`{manifest.task}/{manifest.name}`](#{anchor(manifest)})"
        lines.append(f"| {name}{default} | {manifest.title} | {count(manifest.parameters)} |")
    return "\n".join(lines)


def readme(text: str, manifests: list[Manifest]) -> str:
    """Return the README's `text` with its table of default models replaced."""
    return replace_block(text, short_table(manifests))


def evaluation(text: str, manifests: list[Manifest]) -> str:
    """Return the `text` of docs/evaluation.md with what the default denoiser does to clean pictures replaced."""
    defaults = [manifest for manifest in manifests if manifest.task == "denoise" and repository.is_default(manifest)]
    shown = [grid(entry) for manifest in defaults for entry in manifest.quality if entry.title.startswith(CLEAN)]
    return replace_block(text, "\n\n".join(shown))


def replace_block(text: str, block: str) -> str:
    """Return `text` with `block` between its marks."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{block}\n{END}", text, flags=re.DOTALL)


def main() -> int:
    manifests = newest(REPOSITORY)
    stale = False
    pages = {
        PAGE: page(manifests),
        README: readme(README.read_text("utf-8"), manifests),
        EVALUATION: evaluation(EVALUATION.read_text("utf-8"), manifests),
    }
    for path, text in pages.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        stale = True
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date: make docs")
        else:
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return int(stale and "--check" in sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
