"""Measures the inpainting methods that need no model: `python -m benchmarks.inpaint`.

PSNR inside the holes, on Kodak24, with the same holes for every method and for `training evaluate inpaint_photo`. Needs
the data packs `photos` and `person`, whose silhouettes are used as holes.
"""

from __future__ import annotations

import argparse

from training.data.packs import MissingPack, Packs
from training.evaluation.inpainting import CLASSICAL, silhouettes, tables


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    packs = Packs()
    try:
        for table in tables(CLASSICAL, silhouettes(packs, "test"), packs, "python -m benchmarks.inpaint"):
            print(table.text())
    except MissingPack as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
