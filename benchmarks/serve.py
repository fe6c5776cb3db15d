"""Compares the service with a bare loop over the same SavedModel, as ratios.

`python -m benchmarks.serve [--task denoise] [--model NAME] [--side 512] [--starts 3] [--rounds 8] [--callers 16]`
`python -m benchmarks.serve --precision [--rounds 8]`

The bare loop is one process without HTTP, queue, limits or scheduler: the same decoding, the same task (all arithmetic
before and after the network), the same SavedModel, the same encoding. Service and bare loop alternate, so that other
load on the machine affects both. Medians are compared over several starts, because memory layout makes the same network
up to 5 % slower or faster from one process to another.

* latency: one client. Goal: service ≤ 1.05 × bare loop (pictures of 512² and more).
* throughput: `--callers` concurrent requests, compared with the sequential bare loop. Goal: service ≥ 0.97 × bare loop.

Both compute in the precision of `RESTORE_PRECISION`. `--precision` compares the precisions instead
(`benchmarks.precision`).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import numpy as np
import skimage.data
from PIL import Image

from app.engine.precision import PrecisionChoice, PrecisionSetting, bfloat16_speed
from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.codec import Output, choose_format, decode, encode
from app.settings import Settings
from app.tasks.denoise import DenoiseOptions, denoise
from app.tasks.segment.task import SegmentOptions, segment
from app.tasks.superres import SuperresOptions, superres
from benchmarks import precision, results, service
from models.manifest import Manifest


class BareEngine:
    """Implements `protocol.Engine` by calling the SavedModel directly."""

    accelerated = False

    def __init__(self, settings: Settings) -> None:
        self.tile_mebibytes = settings.tile_mb
        self._registry = Registry(settings.models_dir, Runtime())
        self._precision: PrecisionSetting = settings.precision

    def find(self, task: str, name: str | None = None) -> Manifest:
        return self._registry.find(task, name)

    async def run(self, request: InferenceRequest) -> Arrays:
        task, _, name = request.model.partition("/")
        choice = PrecisionChoice.of(self.find(task, name), request.signature)
        precision = choice.preferred(self._precision, bfloat16_speed()) or choice.own
        return self._registry.load(request.model).run(choice.functions[precision], request.inputs)


class BareLoop:
    """The bare loop: a picture file in, a picture file out."""

    def __init__(self, task: str, model: str | None, settings: Settings) -> None:
        self._task, self._model, self._settings = task, model or "", settings
        self.engine = BareEngine(settings)

    async def __call__(self, data: bytes) -> bytes:
        picture = decode(data, max_pixels=self._settings.max_pixels)
        context = RequestContext("bench")
        if self._task == "denoise":
            answer = await denoise(picture, DenoiseOptions(model=self._model), self.engine, context)
        elif self._task == "segment":
            answer = await segment(picture, SegmentOptions(model=self._model), self.engine, context)
        else:
            options = SuperresOptions(model=self._model)
            answer = await superres(picture, options, self.engine, context)
        return encode(answer.picture, Output(choose_format(answer.picture, "auto", None)))[0]


def make_sample(manifest: Manifest, side: int, form: str) -> bytes:
    """Return a picture file: of the model's size if that is fixed, else a noisy photograph of side × side pixels."""
    if manifest.geometry.kind == "fixed":
        height, width = manifest.geometry.valid_sizes[0]
        pixels = np.asarray(Image.fromarray(skimage.data.camera()).resize((width, height)))
    else:
        photograph = Image.fromarray(skimage.data.astronaut()).resize((side, side))
        noise = np.random.default_rng(0).normal(0, 20, (side, side, 3))
        pixels = np.clip(np.asarray(photograph) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **({"quality": 92} if form == "JPEG" else {}))
    return file.getvalue()


def time_request(client: httpx.Client, url: str, data: bytes, fields: dict[str, str]) -> tuple[float, bytes]:
    begun = time.perf_counter()
    answer = client.post(url, files={"image": ("sample", data)}, data=fields)
    seconds = time.perf_counter() - begun
    answer.raise_for_status()
    return seconds, answer.content


@dataclass
class Times:
    """Latencies in seconds and throughputs in pictures per second, of the service and of the bare loop."""

    served: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    served_rate: list[float] = field(default_factory=list)
    alone_rate: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the medians and their ratios."""
        served, alone, many, single = map(
            statistics.median, (self.served, self.alone, self.served_rate, self.alone_rate)
        )
        return {
            "latency, service (s)": served,
            "latency, bare loop (s)": alone,
            "latency, ratio": served / alone,
            "pictures per second, service": many,
            "pictures per second, bare loop": single,
            "throughput, ratio": many / single,
        }


async def compare(options: argparse.Namespace, url: str, bare: BareLoop, data: bytes, times: Times) -> None:
    """Measure one start of the service, alternating with the bare loop, and add the results to `times`."""
    fields = {"model": options.model} if options.model else {}
    address = f"{url}/{options.task}"
    with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=options.callers)) as client:

        def send() -> tuple[float, bytes]:
            return time_request(client, address, data, fields)

        _, one = send()
        if one != await bare(data):
            raise SystemExit("the service and the bare loop returned different bytes, so they cannot be compared")
        for _ in range(options.rounds):
            times.served.append(send()[0])
            begun = time.perf_counter()
            await bare(data)
            times.alone.append(time.perf_counter() - begun)
        requests = options.callers * 2
        with ThreadPoolExecutor(options.callers) as pool:
            for _ in range(max(2, options.rounds // 4)):
                begun = time.perf_counter()
                for future in [pool.submit(send) for _ in range(requests)]:
                    future.result()
                times.served_rate.append(requests / (time.perf_counter() - begun))
                begun = time.perf_counter()
                for _ in range(requests):
                    await bare(data)
                times.alone_rate.append(requests / (time.perf_counter() - begun))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--task", choices=["denoise", "superres", "segment"], default="denoise", help="endpoint")
    arguments.add_argument("--model", help="name of the model (default: the default model of the task)")
    arguments.add_argument("--side", type=int, default=512, help="height and width of the pictures (default: 512)")
    arguments.add_argument("--format", choices=["JPEG", "PNG"], default="JPEG", help="format of the pictures")
    arguments.add_argument("--starts", type=int, default=3, help="how often the service is started (default: 3)")
    arguments.add_argument("--rounds", type=int, default=8, help="number of rounds (default: 8)")
    arguments.add_argument("--callers", type=int, default=16, help="concurrent clients (default: 16)")
    arguments.add_argument("--precision", action="store_true", help="compare float32, bfloat16 and int8 instead")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    settings = Settings()
    if options.precision:
        figures = precision.measure(settings, options.rounds)
        results.report("precision", figures, record=not options.no_record)
        return
    times = Times()
    for _ in range(options.starts):
        with service.running() as (url, _):
            bare = BareLoop(options.task, options.model, settings)
            manifest = bare.engine.find(options.task, options.model)
            data = make_sample(manifest, options.side, options.format)
            asyncio.run(compare(options, url, bare, data, times))
    size = "×".join(map(str, Image.open(io.BytesIO(data)).size))
    figures = {"model": manifest.id, "picture": size, "callers": options.callers, **times.figures()}
    results.report("serve", figures, record=not options.no_record)


if __name__ == "__main__":
    main()
