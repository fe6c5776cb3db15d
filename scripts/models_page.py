"""Generates docs/models.md and the README's tables from the published manifests.

`python -m scripts.models_page` writes them; `--check` only checks that they are up to date (exit code 1 if not).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from models import manifest as contract
from models import repository
from models.manifest import Manifest, QualityTable

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "models/published"
PAGE = ROOT / "docs/models.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- models: made by `make docs` -->", "<!-- end of models -->"


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
    """Return the README's table."""
    lines = ["| model | what it is | parameters |", "|---|---|---|"]
    for manifest in manifests:
        default = f" (default of `/{manifest.task}`)" if repository.is_default(manifest) else ""
        name = f"[`{manifest.task}/{manifest.name}`](docs/models.md#{anchor(manifest)})"
        lines.append(f"| {name}{default} | {manifest.title} | {count(manifest.parameters)} |")
    return "\n".join(lines)


def default_tables(manifests: list[Manifest]) -> list[str]:
    """Return the README's quality tables: all of each task's default model, and the first of each segmentation model.

    Segmentation models are not alternatives to each other: each knows other classes.
    """
    parts = []
    for manifest in manifests:
        shown = (
            manifest.quality if repository.is_default(manifest) else manifest.quality[:1] if manifest.classes else []
        )
        if shown:
            parts += [f"### {manifest.task}/{manifest.name}", *(table(entry) for entry in shown)]
    return parts


def anchor(manifest: Manifest) -> str:
    return f"{manifest.task}{manifest.name}"


def table(entry: QualityTable) -> str:
    """Return a quality table as Markdown."""
    lines = [f"**{entry.title}**", "", "| " + " | ".join(entry.columns) + " |", "|---" * len(entry.columns) + "|"]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in entry.rows]
    lines += ["", f"`{entry.command}`" + (f" — {entry.note}" if entry.note else "")]
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
        "tiled": f"any size, in tiles of up to {geometry.tile_size} px with {geometry.halo} px around",
        "canonical": "any size, reduced to " + ", ".join(f"{h}×{w}" for h, w in geometry.canonical_sizes),
        "fixed": "exactly " + ", ".join(f"{h}×{w}" for h, w in geometry.valid_sizes),
        "whole": "any size, never cut",
    }[geometry.kind]
    facts = [
        f"* version {manifest.version} of {manifest.created}, {manifest.architecture}, "
        f"{count(manifest.parameters)} parameters, {count(manifest.flops_per_pixel)} floating point operations a pixel",
        f"* takes {takes}" + (f"; enlarges {scales(manifest)}" if scales(manifest) else ""),
        f"* trained {provenance.hours:g} h on {provenance.device}, {provenance.steps} steps, seed {provenance.seed}"
        + (f", started from {provenance.started_from}" if provenance.started_from else "")
        + f": `{provenance.command}`",
        f"* data: {', '.join(sorted(provenance.data)) or 'none'}",
        f"* licence: {manifest.licence}",
    ]
    default = f" — the default of `/{manifest.task}`" if repository.is_default(manifest) else ""
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
        "Generated from the manifests in `models/published` by `make docs`: what a figure means and how it is measured "
        "is in the [README](../README.md#how-it-is-measured). `GET /models/{task}/{name}` says the same of a running "
        "service, for every version it holds. The folders there are in TensorFlow Serving's layout.\n"
    )
    return "\n\n".join([head.rstrip(), *(section(manifest) for manifest in manifests)]) + "\n"


def readme(text: str, manifests: list[Manifest]) -> str:
    """Return the README's `text` with its tables of models replaced."""
    block = "\n\n".join([f"{BEGIN}\n{short_table(manifests)}", *default_tables(manifests)]) + f"\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)


def main() -> int:
    manifests = newest(REPOSITORY)
    stale = False
    for path, text in ((PAGE, page(manifests)), (README, readme(README.read_text("utf-8"), manifests))):
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
