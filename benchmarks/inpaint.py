"""How well the methods without a model fill holes: `python -m benchmarks.inpaint` (needs the pack `photos`).

Kodak24, PSNR inside the holes; the same holes for every method, and for `training evaluate inpaint_photo`.
"""

from __future__ import annotations

from training.data.packs import Packs
from training.inpainting import CLASSICAL, silhouettes, tables


def main() -> None:
    packs = Packs()
    for table in tables(CLASSICAL, silhouettes(packs, "test"), packs, "python -m benchmarks.inpaint"):
        print(table.text())


if __name__ == "__main__":
    main()
