"""The card beside a published model: what it is, what it learned from, how good it is."""

from __future__ import annotations

from models.manifest import Manifest
from training.evaluation.tables import ResultTable
from training.recipe import Recipe

TERMS = {
    "digits": "MNIST (LeCun, Cortes and Burges), CC BY-SA 3.0: 10,000 of its 60,000 training digits, and its test "
    "digits.",
    "photos": "Photographs of BSDS500 (Arbeláez et al. 2011; free for research), CID22, CLIC and gb82: research "
    "data and photographs of many origins, some without a stated licence. Not part of this repository.",
    "faces": "Labeled Faces in the Wild (Huang et al. 2007), photographs of public figures from the news, for "
    "research; their rights remain with their owners. Not part of this repository.",
    "street": "CamVid (Brostow et al. 2009), street scenes of Cambridge, in the split of SegNet; distributed for "
    "research, no licence known. Not part of this repository.",
    "person": "Clothing Co-Parsing (Yang et al. 2014) and a collection of portraits and mixed scenes; for research, "
    "some without a stated licence. Not part of this repository.",
    "road": "The aerial pictures of EPFL's road segmentation course and Massachusetts Roads (Mnih 2013); "
    "distributed for research, no licence known. Not part of this repository.",
    "voc": "Pictures of COCO 2017 with their labels under VOC's ids: annotations CC BY 4.0, the pictures "
    "Flickr's, each with its own licence. Not part of this repository.",
    "object": "ECSSD (Shi et al. 2016): pictures from the internet with masks of their main object, for research, no "
    "licence known. Not part of this repository.",
    "photos-any": "Photographs of ImageNet (Deng et al. 2009), one of each of 949 classes, for research; their rights "
    "remain with their owners. With the answers of U²-Netp (Apache-2.0) about them. Not part of this repository.",
    "content": "Photographs to be stylized, of Kodak, scikit-image and others, each under the terms of its source. "
    "Not part of this repository.",
    "mountain": "The mountains of Intel's scene classification set; no terms stated. Not part of this repository.",
    "styles": "Paintings and prints by artists who died before 1955. Not part of this repository.",
}


def card(recipe: Recipe, manifest: Manifest, tables: list[ResultTable]) -> str:
    """Return the card's Markdown."""
    made = manifest.provenance
    data = "\n".join(f"* `{pack}`: {TERMS[pack]} SHA-256 of the pack: `{made.data[pack]}`." for pack in recipe.packs)
    quality = "\n\n".join(table.text() for table in tables)
    words = f"\n\n{recipe.card}" if recipe.card else ""
    return f"""# {manifest.id}: {manifest.title}

{manifest.description}{words}

{manifest.architecture}; {manifest.parameters:,} parameters, {manifest.flops_per_pixel:,} floating-point operations a
pixel. Weights are stored as float16 where that costs less than 0.005 dB or 0.05 % of IoU, and computed
with as float32.

## Learned from

{data}

## Quality

{quality}

{_eight_bit(manifest)}## Made by

`{made.command}`: {made.steps:,} steps in {made.hours:.2f} h on {made.device}, seed {made.seed}\
{f", started from {made.started_from}" if made.started_from else ""}, computed in {made.precision}; published
{manifest.created}.

## Licence

{manifest.licence}: whoever uses the model for more than research minds them too.
{_starts(manifest)}"""


def _starts(manifest: Manifest) -> str:
    lines = [
        f"Training started from {one.name}, {one.licence} (its text: `{one.licence_file}`)."
        for one in manifest.provenance.starts
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _eight_bit(manifest: Manifest) -> str:
    if not manifest.quantized:
        return ""
    rows = [
        f"| {one.signature} | {one.precision} | {', '.join(f'{tall}x{wide}' for tall, wide in one.sizes)} | "
        + ", ".join(f"{name} {before:.2f} to {after:.2f}" for name, (before, after) in one.figures.items())
        + f" | {one.faster:.2f} |"
        for one in manifest.quantized
    ]
    head = "| signature | kind | sizes | on held-out pictures | times as fast, where it was made |\n"
    return "## In 8 bit\n\n" + head + "|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
