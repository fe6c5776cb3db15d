"""The service against a bare loop over the same SavedModel, in one run, as ratios.

`python -m benchmarks.serve [--task denoise] [--model NAME] [--side 512] [--starts 3] [--rounds 8] [--callers 16]`

The bare loop is one process without HTTP, queue, limits or scheduler: the same decoding, the same task (the arithmetic
before and after the network), the same SavedModel, the same encoding. Service and bare loop take turns, so that what
else the machine does hits both; medians are compared, over several starts: where memory happens to lie makes the same
network up to a twentieth slower or faster in one process than in another.

* latency: one caller. Goal: service ≤ 1.05 × bare (pictures of 512² and more).
* throughput: `--callers` at once against the bare loop one by one. Goal: service ≥ 0.97 × bare.
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

from app.engine.protocol import Arrays, InferenceRequest, RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.codec import Output, choose_format, decode, encode
from app.settings import Settings
from app.tasks.denoise import DenoiseWish, denoise
from app.tasks.segment import SegmentWish, segment
from app.tasks.superres import SuperresWish, superres
from benchmarks import results, service
from models.manifest import Manifest


class BareEngine:
    """Implements `protocol.Engine` by calling the SavedModel where it stands."""

    accelerated = False

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry(settings.models_dir, Runtime())

    def find(self, task: str, name: str | None = None) -> Manifest:
        return self._registry.find(task, name)

    async def run(self, request: InferenceRequest) -> Arrays:
        return self._registry.load(request.model).run(request.signature, request.inputs)


class Bare:
    """The bare loop: bytes in, bytes out."""

    def __init__(self, task: str, model: str | None, settings: Settings) -> None:
        self._task, self._model, self._settings = task, model, settings
        self.engine = BareEngine(settings)

    async def __call__(self, data: bytes) -> bytes:
        picture = decode(data, max_pixels=self._settings.max_pixels)
        context = RequestContext("bench")
        if self._task == "denoise":
            answer = await denoise(picture, DenoiseWish(model=self._model), self.engine, context)
        elif self._task == "segment":
            answer = await segment(picture, SegmentWish(model=self._model), self.engine, context)
        else:
            wish = SuperresWish(model=self._model, max_output_pixels=self._settings.max_output_pixels)
            answer = await superres(picture, wish, self.engine, context)
        return encode(answer.picture, Output(choose_format(answer.picture, "auto", None)))[0]


def sample(manifest: Manifest, side: int, form: str) -> bytes:
    """Return a picture as a file: what a fixed-size model takes, else a noisy photograph of side² pixels."""
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


def seconds_of_service(client: httpx.Client, url: str, data: bytes, fields: dict[str, str]) -> tuple[float, bytes]:
    begun = time.perf_counter()
    answer = client.post(url, files={"image": ("sample", data)}, data=fields)
    device_seconds = time.perf_counter() - begun
    answer.raise_for_status()
    return device_seconds, answer.content


@dataclass
class Times:
    """What each side took: seconds of one picture, pictures a second of many."""

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
            "pictures a second, service": many,
            "pictures a second, bare loop": single,
            "throughput, ratio": many / single,
        }


async def compare(wish: argparse.Namespace, url: str, bare: Bare, data: bytes, times: Times) -> None:
    """Add what one start of the service takes, in turns with the bare loop, to `times`."""
    fields = {"model": wish.model} if wish.model else {}
    address = f"{url}/{wish.task}"
    with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=wish.callers)) as client:

        def ask() -> tuple[float, bytes]:
            return seconds_of_service(client, address, data, fields)

        _, one = ask()
        if one != await bare(data):
            raise SystemExit("the service and the bare loop gave different bytes: there is nothing to compare")
        for _ in range(wish.rounds):
            times.served.append(ask()[0])
            begun = time.perf_counter()
            await bare(data)
            times.alone.append(time.perf_counter() - begun)
        requests = wish.callers * 2
        with ThreadPoolExecutor(wish.callers) as pool:
            for _ in range(max(2, wish.rounds // 4)):
                begun = time.perf_counter()
                for future in [pool.submit(ask) for _ in range(requests)]:
                    future.result()
                times.served_rate.append(requests / (time.perf_counter() - begun))
                begun = time.perf_counter()
                for _ in range(requests):
                    await bare(data)
                times.alone_rate.append(requests / (time.perf_counter() - begun))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--task", choices=["denoise", "superres", "segment"], default="denoise")
    arguments.add_argument("--model")
    arguments.add_argument("--side", type=int, default=512)
    arguments.add_argument("--format", choices=["JPEG", "PNG"], default="JPEG")
    arguments.add_argument("--starts", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--callers", type=int, default=16)
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    wish = arguments.parse_args()
    settings = Settings()
    times = Times()
    for _ in range(wish.starts):
        with service.running() as (url, _):
            bare = Bare(wish.task, wish.model, settings)
            manifest = bare.engine.find(wish.task, wish.model)
            data = sample(manifest, wish.side, wish.format)
            asyncio.run(compare(wish, url, bare, data, times))
    size = "×".join(map(str, Image.open(io.BytesIO(data)).size))
    figures = {"model": manifest.id, "picture": size, "callers": wish.callers, **times.figures()}
    results.keep("serve", figures, record=not wish.no_record)


if __name__ == "__main__":
    main()
