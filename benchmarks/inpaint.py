"""How well the methods without a model fill holes: `python -m benchmarks.inpaint`.

Kodak24, PSNR inside the holes; the same holes for every method, and for `training evaluate inpaint_photo`. Needs the
packs `photos` and `person`, whose silhouettes are holes.
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
