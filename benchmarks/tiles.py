"""Measures what tiles cost: a task on pictures of several sizes, compared with its network on a picture in one piece.

`python -m benchmarks.tiles [--arithmetic | --waits] [--memory] [--task denoise] [--megapixels 0.25 1 4 12 24]`

* computed: pixels of all tiles over those of the picture. Goal: at most 1.25 at 12 megapixels. With `--arithmetic`,
  that is all: for every published model, with the largest tile and its memory, and nothing runs.
* seconds a megapixel of the default model of a task, and their ratio to the network alone. Goal: at most 1.3. The
  network alone is one call of the SavedModel, for the largest square of these sizes that fits into `RESTORE_TILE_MB`.
  The task is all that the service does between decoding and encoding. Both alternate in one process, and medians are
  compared. With `--processor-time`, seconds are those of all cores together: other load changes them less.
* with `--waits`, only the seconds that thumbnails of another client take while a picture of each size is processed, in
  turn with the tiles of the manifest and with those of the service.
* with `--memory`, the peak of the service with a picture of 12 megapixels, over its idle memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from app.engine.local import LocalEngine
from app.engine.precision import functions_of
from app.engine.protocol import RequestContext
from app.imaging.codec import decode
from app.imaging.picture import Picture
from app.settings import Settings
from app.startup import start_engine
from app.tasks import TASKS
from app.tasks.base import Size, Task
from app.tasks.tiling import count_computed, tile_size_for
from benchmarks import memory, results
from models import repository
from models.manifest import Manifest, read

SIGNATURES = {"denoise": "denoise", "superres": "x2", "stylize": "paint"}
OPTIONS: dict[str, dict[str, Any]] = {
    "denoise": {},
    "superres": {"model": "photo", "scale": 2},
    "stylize": {"style": "starry-night"},
}
FEW_MEGAPIXELS = 4
"""Larger pictures are measured once: they have many tiles."""

Clock = Callable[[], float]
Figures = dict[str, float | int | str]


def size_of(megapixels: float) -> Size:
    """Return a size of 3:2, as `memory.photograph` has it."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    return Size(round(height * 1.5), height)


def count(settings: Settings, megapixels: list[float]) -> Figures:
    """Return how much every published model computes, and its largest tile at the last of the sizes."""
    figures: Figures = {}
    for manifest in map(read, repository.folders(settings.models_dir)):
        if manifest.geometry.kind != "tiled":
            continue
        for size, name in ((size_of(one), f"{manifest.id}, {one:g} megapixels") for one in megapixels):
            figures[f"{name}: computed"] = count_computed(size, manifest, settings.tile_mb) / size.pixels
            figures[f"{name}: as in the manifest"] = count_computed(size, manifest, 0) / size.pixels
        height, width = tile_size_for(size, manifest, settings.tile_mb)
        figures[f"{name}: tile"] = f"{width}×{height}"
        figures[f"{name}: tile (MiB)"] = height * width / 1e6 * manifest.serving.mebibytes_per_megapixel
        figures[f"{name}: tile (10⁹ operations)"] = height * width * manifest.flops_per_pixel / 1e9
    return figures


class Network:
    """The SavedModel of a task's default model alone, on a square of `megapixels`, or less that fits in `mebibytes`."""

    def __init__(self, engine: LocalEngine, manifest: Manifest, megapixels: float, mebibytes: float) -> None:
        self._model = engine.registry.load(manifest.id)
        signature = SIGNATURES[manifest.task]
        precision = engine.precisions(manifest)[signature]
        functions = {str(name): function for name, function in functions_of(manifest, signature).items()}
        self._function = functions[precision] if precision != "int8" else signature  # whose files are for one size
        step = manifest.geometry.tile_step
        pixels = 1e6 * min(megapixels, mebibytes / manifest.serving.mebibytes_per_megapixel)
        side = math.isqrt(int(pixels)) // step * step
        self.megapixels = side**2 / 1e6
        random = np.random.default_rng(0)
        self._inputs = {
            name: random.random(tensor.shape_at((side, side)), np.float32)
            for name, tensor in manifest.signatures[signature].inputs.items()
        }

    def time(self, clock: Clock) -> float:
        """Return the seconds a megapixel of one call."""
        begun = clock()
        self._model.run(self._function, self._inputs)
        return (clock() - begun) / self.megapixels


async def time_task(task: Task[Any], picture: Picture, engine: LocalEngine, clock: Clock) -> float:
    """Return the seconds a megapixel of a request between decoding and encoding."""
    begun = clock()
    await task.run(picture, task.options(**OPTIONS[task.name]), engine, RequestContext("bench"))
    return (clock() - begun) / (picture.width * picture.height / 1e6)


async def measure_waits(task: Task[Any], megapixels: list[float], rounds: int, settings: Settings) -> Figures:
    """Return how long thumbnails take while a picture of each size is processed."""
    engine = start_engine(settings)
    for other in {task.name, "denoise"}:
        await engine.warm(engine.find(other))
    denoise = next(one for one in TASKS if one.name == "denoise")
    thumbnail = Picture(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    figures: Figures = {"model": engine.find(task.name).id}
    for one in megapixels:
        picture = decode(memory.photograph(one), max_pixels=settings.max_pixels)
        waits: dict[int, list[float]] = {0: [], settings.tile_mb: []}
        for _, tile_mebibytes in itertools.product(range(rounds), waits):
            engine.tile_mebibytes = tile_mebibytes
            large = asyncio.ensure_future(
                task.run(picture, task.options(**OPTIONS[task.name]), engine, RequestContext("large", client="large"))
            )
            await asyncio.sleep(1)  # it has begun
            while not large.done():
                begun = time.perf_counter()
                context = RequestContext("thumbnail", client="thumbnail")
                await denoise.run(thumbnail, denoise.options(strength=0.2), engine, context)
                waits[tile_mebibytes].append(time.perf_counter() - begun)
                await asyncio.sleep(0.3)
            await large
        for name, found in zip(("the manifest's tiles", "larger tiles"), waits.values(), strict=True):
            figures[f"{one:g} megapixels, {name}: median (s)"] = statistics.median(found)
            figures[f"{one:g} megapixels, {name}: longest (s)"] = max(found)
    await engine.close(0)
    return figures


async def compare(
    task: Task[Any], megapixels: list[float], rounds: int, settings: Settings, clock: Clock = time.perf_counter
) -> Figures:
    """Return the figures of a task at each size."""
    engine = start_engine(settings)
    if not isinstance(engine, LocalEngine):
        raise SystemExit("this benchmark measures the engine `local`")
    manifest = engine.find(task.name)
    await engine.warm(manifest)
    network = Network(engine, manifest, max(megapixels), settings.tile_mb)
    network.time(clock)
    figures: Figures = {"model": manifest.id, "network alone on (megapixels)": network.megapixels}
    for one in megapixels:
        picture = decode(memory.photograph(one), max_pixels=settings.max_pixels)
        size = Size(picture.width, picture.height)
        alone, tiled = [], []
        for _ in range(rounds if one <= FEW_MEGAPIXELS else 1):
            alone.append(network.time(clock))
            tiled.append(await time_task(task, picture, engine, clock))
        alone.append(network.time(clock))
        figures |= {
            f"{one:g} megapixels: computed": count_computed(size, manifest, settings.tile_mb) / size.pixels,
            f"{one:g} megapixels: s/megapixel": statistics.median(tiled),
            f"{one:g} megapixels: network alone": statistics.median(alone),
            f"{one:g} megapixels: ratio": statistics.median(tiled) / statistics.median(alone),
        }
    await engine.close(0)
    return figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--arithmetic", action="store_true", help="count pixels, and run nothing")
    arguments.add_argument("--waits", action="store_true", help="measure thumbnails while a picture is processed")
    arguments.add_argument("--task", choices=list(OPTIONS), default="denoise", help="default: denoise")
    arguments.add_argument(
        "--megapixels", type=float, nargs="+", default=[0.25, 1, 4, 12, 24], help="sizes of pictures"
    )
    arguments.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    arguments.add_argument("--processor-time", action="store_true", help="measure the time of all cores together")
    arguments.add_argument("--memory", action="store_true", help="measure the memory at 12 megapixels, too")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    settings = Settings()
    if options.arithmetic:
        results.report("tiles", count(settings, options.megapixels), record=False)
        return
    task = next(task for task in TASKS if task.name == options.task)
    if options.waits:
        waits = asyncio.run(measure_waits(task, options.megapixels, options.rounds, settings))
        results.report("tiles-waits", waits, record=not options.no_record)
        return
    clock = time.process_time if options.processor_time else time.perf_counter
    figures = asyncio.run(compare(task, options.megapixels, options.rounds, settings, clock))
    if options.memory:
        peak = memory.measure(task.name, None, 12)["peak over idle (MiB)"]
        figures["12 megapixels: peak over idle (MiB)"] = peak
    results.report("tiles", figures, record=not options.no_record)


if __name__ == "__main__":
    main()
