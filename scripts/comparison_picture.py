"""Draws the four networks' segmentations of one picture: `docs/images/comparison.jpg`.

    python -m training train segment_street_comparison --hours 0.4
    python -m scripts.comparison_picture [--out OUT]

The picture is Kodak's 8th, free to use, from the data pack `photos`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from training.data.packs import MissingPack, Packs, read_rgb
from training.recipe import load
from training.recipes.segment_street import CLASSES, DATASET
from training.runs import NotTrained, load_trained

TARGET = Path(__file__).resolve().parent.parent / "docs/images/comparison.jpg"
WIDTH = 384


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("runs"), help="folder of training results (default: runs/)")
    options = arguments.parse_args()
    try:
        draw(options.out)
    except (MissingPack, NotTrained) as error:
        raise SystemExit(str(error)) from None


def draw(out: Path) -> None:
    """Save the picture with the output of each network trained in `out`. Raises MissingPack, NotTrained."""
    picture = read_rgb(Packs().folder("photos/test/Kodak24") / "kodim08.webp")
    colors = np.array([color for _, _, color in CLASSES], np.uint8)
    networks = load_trained(load("segment_street_comparison"), out)
    panels = [picture, *(colors[DATASET.labels_of(network, picture)] for network in networks.values())]
    height = round(WIDTH * picture.shape[0] / picture.shape[1])
    small = [cv2.resize(panel, (WIDTH, height), interpolation=cv2.INTER_AREA) for panel in panels]
    gap = np.full((height, 6, 3), 255, np.uint8)
    row = [part for panel in small for part in (panel, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(TARGET, quality=88, optimize=True)
    print(TARGET)


if __name__ == "__main__":
    main()
