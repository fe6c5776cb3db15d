"""The same workload on this service, on LitServe and on Ray Serve, beside the bare loop, in one run, as ratios.

`python -m benchmarks.rivals --python VENV/bin/python [--rounds 8] [--callers 16] [--large 50]`

VENV is an environment of its own: `pip install "tensorflow-cpu==2.21.*" litserve "ray[serve]" simplejpeg
python-multipart`. Each server is started as its users would, over the same SavedModel (`benchmarks.rivals.denoiser` is
what they write around it), with the best of a few settings of workers and batch, by throughput in a short trial. Then
all take turns, so that what else the machine does hits all of them; medians are compared. JPEG in, JPEG out,
denoise/photo at one strength:

* latency of one caller and throughput of `--callers`, pictures of 512²;
* throughput of `--callers`, pictures of 64 to 512 px a side, mixed;
* a thumbnail's 95th percentile, alone and beside a picture of `--large` megapixels that keeps the device busy. Nobody
  holds that whole: LitServe's users cut it in `predict`, Ray Serve's hand its tiles to `@serve.batch`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from app.engine.protocol import RequestContext
from app.imaging.codec import Output, choose_format, decode, encode
from app.settings import Settings
from app.tasks.denoise import DenoiseWish, denoise
from benchmarks import results, service
from benchmarks.memory import photograph
from benchmarks.rivals.denoiser import LEVEL
from benchmarks.serve import BareEngine, sample

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600.0
SETTINGS = ((1, 1), (2, 1), (1, 4))
"""Workers and largest batch, of which the best is taken."""

Ask = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Rival:
    """A server that is up: its name with its settings, and how it is asked."""

    name: str
    ask: Ask


@contextmanager
def started(python: str, module: str, folder: Path, workers: int, batch: int) -> Iterator[Ask]:
    """Start a server in its own environment and give what asks it once it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [python, "-m", f"benchmarks.rivals.{module}", str(folder), "--port", str(port)]
    command += ["--workers", str(workers), "--batch", str(batch)]
    with (
        tempfile.TemporaryFile() as log,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=None, limits=httpx.Limits(max_connections=64)
        ) as client,
    ):
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        ask = asking_in_json(client) if module == "litserve_server" else asking(client, "/predict", {})
        try:
            wait(process, ask)
            yield ask
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-4000:])
            raise
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):  # its workers, where it leaves some behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(process: subprocess.Popen[bytes], ask: Ask) -> None:
    """Return once a picture came back."""
    deadline = time.monotonic() + START_SECONDS
    data = thumbnail(0)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            ask(data)
            return
        except httpx.TransportError:
            pass
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (404, 503):
                raise
        time.sleep(0.5)
    raise TimeoutError("the server was not ready in time")


def asking(client: httpx.Client, path: str, fields: dict[str, str]) -> Ask:
    def ask(data: bytes) -> bytes:
        answer = client.post(path, files={"image": ("sample.jpg", data)}, data=fields)
        answer.raise_for_status()
        return answer.content

    return ask


def asking_in_json(client: httpx.Client) -> Ask:
    def ask(data: bytes) -> bytes:
        answer = client.post("/predict", json={"image": base64.b64encode(data).decode()})
        answer.raise_for_status()
        return answer.content

    return ask


def bare(engine: BareEngine, settings: Settings) -> Ask:
    """Return the bare loop: the same way from bytes to bytes, in this process."""

    async def whole(data: bytes) -> bytes:
        picture = decode(data, max_pixels=settings.max_pixels)
        answer = await denoise(picture, DenoiseWish(model="photo", strength=LEVEL), engine, RequestContext("bench"))
        return encode(answer.picture, Output(choose_format(answer.picture, "auto", None)))[0]

    return lambda data: asyncio.run(whole(data))


def thumbnail(number: int, side: int = 96) -> bytes:
    """Return a small JPEG of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=92)
    return file.getvalue()


def timed(ask: Ask, data: bytes) -> float:
    begun = time.perf_counter()
    ask(data)
    return time.perf_counter() - begun


def pace(ask: Ask, pictures: Sequence[bytes], callers: int) -> float:
    """Return how many of `pictures` are answered a second, by so many callers at once."""
    with ThreadPoolExecutor(callers) as pool:
        begun = time.perf_counter()
        list(pool.map(ask, pictures))
        return len(pictures) / (time.perf_counter() - begun)


def percentile(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 95))


def best(python: str, module: str, folder: Path, pictures: Sequence[bytes], callers: int) -> tuple[int, int]:
    """Return the workers and the batch with which a server is fastest."""
    paces = {}
    for workers, batch in SETTINGS:
        with started(python, module, folder, workers, batch) as ask:
            pace(ask, pictures[:callers], callers)
            paces[workers, batch] = pace(ask, pictures, callers)
        print(f"{module}, {workers} workers, batch {batch}: {paces[workers, batch]:.2f} pictures a second", flush=True)
    return max(paces, key=lambda setting: paces[setting])


def beside(ask: Ask, large: bytes, seconds: float, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds of thumbnails alone, and beside a large picture under way, for so long or so many."""
    alone = [timed(ask, thumbnail(number)) for number in range(count)]
    busy = threading.Event()

    def occupy() -> None:
        with suppress(httpx.HTTPError):
            ask(large)
        busy.set()

    threading.Thread(target=occupy, daemon=True).start()
    time.sleep(min(5.0, seconds / 4))  # until it is decoded and its tiles are under way
    found: list[float] = []
    limit = time.perf_counter() + seconds
    while not busy.is_set() and time.perf_counter() < limit and len(found) < count:
        found.append(timed(ask, thumbnail(len(found))))
    if not found:
        print("the large picture was done before a thumbnail could be sent: ask for a larger one", flush=True)
    return alone, found


def measured(rivals: Sequence[Rival], wish: argparse.Namespace, square: bytes) -> dict[str, dict[str, float]]:
    """Return {figure: {rival: median}}, all taking turns."""
    mixed = [thumbnail(number, 64 + number * 56 % 449) for number in range(wish.callers * 2)]
    squares = [square] * (wish.callers * 2)
    figures: dict[str, dict[str, list[float]]] = {
        "latency of 512² (s)": {rival.name: [] for rival in rivals},
        "512² a second": {rival.name: [] for rival in rivals},
        "mixed a second": {rival.name: [] for rival in rivals},
    }
    latency, throughput, both = figures.values()
    for turn in range(wish.rounds):
        for rival in rivals:
            latency[rival.name] += [timed(rival.ask, square) for _ in range(3)]
            if turn % 4 == 0:
                callers = 1 if rival.name == "bare loop" else wish.callers
                throughput[rival.name].append(pace(rival.ask, squares, callers))
                both[rival.name].append(pace(rival.ask, mixed, callers))
    return {
        figure: {name: statistics.median(values) for name, values in rows.items()} for figure, rows in figures.items()
    }


def apart(one: bytes, other: bytes) -> float:
    """Return the mean difference of two pictures, of 255."""
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--python", required=True, help="of the environment with litserve and ray")
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--callers", type=int, default=16)
    arguments.add_argument("--large", type=float, default=50.0, help="megapixels of the picture beside the thumbnails")
    arguments.add_argument("--seconds", type=float, default=120.0, help="for thumbnails beside it")
    arguments.add_argument("--thumbnails", type=int, default=40)
    arguments.add_argument("--only", choices=["litserve_server", "ray_server"], help="leave the other one out")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    wish = arguments.parse_args()
    settings = Settings()
    engine = BareEngine(settings)
    model = engine.find("denoise", "photo")
    folder = ROOT / "models" / "published" / "denoise" / model.name / str(model.version)
    square = sample(model, 512, "JPEG")
    loop = Rival("bare loop", bare(engine, settings))
    expected = loop.ask(square)
    modules = [wish.only] if wish.only else ["litserve_server", "ray_server"]
    chosen = {module: best(wish.python, module, folder, [square] * wish.callers, wish.callers) for module in modules}
    with ExitStack() as stack:
        url, _ = stack.enter_context(service.running(request_timeout_s="7200", preload="denoise/photo"))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=None))
        ours = Rival("this service", asking(client, "/denoise", {"model": "photo", "strength": str(LEVEL)}))
        rivals = [loop, ours]
        for module, (workers, batch) in chosen.items():
            ask = stack.enter_context(started(wish.python, module, folder, workers, batch))
            rivals.append(Rival(f"{module.removesuffix('_server')}, {workers}×{batch}", ask))
        for rival in rivals:
            far = apart(rival.ask(square), expected)
            if far > 1:
                raise SystemExit(f"{rival.name} gave another picture, {far:.1f} of 255 apart: nothing to compare")
        figures = measured(rivals, wish, square)
        large = photograph(wish.large)
        figures |= {"thumbnail, 95th (s)": {}, "beside a large one, 95th (s)": {}}
        for rival in rivals[1:]:
            alone, found = beside(rival.ask, large, wish.seconds, wish.thumbnails)
            figures["thumbnail, 95th (s)"][rival.name] = percentile(alone)
            if found:
                figures["beside a large one, 95th (s)"][rival.name] = percentile(found)
    results.keep("rivals", dict(table(figures)), record=not wish.no_record)


def table(figures: dict[str, dict[str, float]]) -> Iterator[tuple[str, float]]:
    """Yield each figure of each rival, and its ratio to the bare loop's where that has one."""
    for figure, rows in figures.items():
        for name, value in rows.items():
            yield f"{figure}, {name}", value
            if name != "bare loop" and "bare loop" in rows:
                yield f"{figure}, {name}, ratio", value / rows["bare loop"]


if __name__ == "__main__":
    main()
