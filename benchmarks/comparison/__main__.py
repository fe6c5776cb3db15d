"""Compares this service, LitServe and Ray Serve on the same workload, as ratios to a bare loop.

`python -m benchmarks.comparison --python VENV/bin/python [--rounds 8] [--callers 16] [--large 50]`

VENV is a separate environment: `pip install "tensorflow-cpu==2.21.*" litserve "ray[serve]" simplejpeg
python-multipart`. Each server is started as its users would, over the same SavedModel (`benchmarks.comparison.denoiser`
is the code that they write around it), with the best of a few settings of workers and batch, by throughput in a short
trial. Then all servers alternate, so that other load on the machine affects all of them; medians are compared. JPEG in,
JPEG out, denoise/photo at one strength:

* latency with one client and throughput with `--callers` clients, pictures of 512²;
* throughput with `--callers` clients, pictures with sides of 64 to 512 px, mixed;
* the 95th percentile of a thumbnail's latency, alone and during a picture of `--large` megapixels. No server processes
  that in one piece: LitServe's users split it in `predict`, Ray Serve's send its tiles to `@serve.batch`.
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
from app.tasks.denoise import DenoiseOptions, denoise
from benchmarks import results, service
from benchmarks.comparison.denoiser import LEVEL
from benchmarks.memory import photograph
from benchmarks.serve import BareEngine, make_sample

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600.0
SETTINGS = ((1, 1), (2, 1), (1, 4))
"""(Workers, largest batch) to try; the best is used."""

Send = Callable[[bytes], bytes]
"""Sends a JPEG and returns the JPEG of the answer."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server: its name with its settings, and a function that sends it a picture."""

    name: str
    send: Send


@contextmanager
def run_server(python: str, module: str, folder: Path, workers: int, batch: int) -> Iterator[Send]:
    """Start a server in its own environment; yield a function that sends it pictures, once it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [python, "-m", f"benchmarks.comparison.{module}", str(folder), "--port", str(port)]
    command += ["--workers", str(workers), "--batch", str(batch)]
    with (
        tempfile.TemporaryFile() as log,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=None, limits=httpx.Limits(max_connections=64)
        ) as client,
    ):
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        send = make_json_sender(client) if module == "litserve_server" else make_form_sender(client, "/predict", {})
        try:
            wait_until_ready(process, send)
            yield send
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace")[-4000:])
            raise
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):  # workers that it left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], send: Send) -> None:
    """Wait until the server answers a picture. Raises RuntimeError, TimeoutError."""
    deadline = time.monotonic() + START_SECONDS
    data = make_thumbnail(0)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            send(data)
            return
        except httpx.TransportError:
            pass
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (404, 503):
                raise
        time.sleep(0.5)
    raise TimeoutError("the server was not ready in time")


def make_form_sender(client: httpx.Client, path: str, fields: dict[str, str]) -> Send:
    def send(data: bytes) -> bytes:
        answer = client.post(path, files={"image": ("sample.jpg", data)}, data=fields)
        answer.raise_for_status()
        return answer.content

    return send


def make_json_sender(client: httpx.Client) -> Send:
    def send(data: bytes) -> bytes:
        answer = client.post("/predict", json={"image": base64.b64encode(data).decode()})
        answer.raise_for_status()
        return answer.content

    return send


def make_bare_loop(engine: BareEngine, settings: Settings) -> Send:
    """Return the bare loop: the same decoding, task and encoding in this process."""

    async def whole(data: bytes) -> bytes:
        picture = decode(data, max_pixels=settings.max_pixels)
        answer = await denoise(picture, DenoiseOptions(model="photo", strength=LEVEL), engine, RequestContext("bench"))
        return encode(answer.picture, Output(choose_format(answer.picture, "auto", None)))[0]

    return lambda data: asyncio.run(whole(data))


def make_thumbnail(number: int, side: int = 96) -> bytes:
    """Return a JPEG of `side` × `side` pixels that depends on `number`."""
    pixels = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=92)
    return file.getvalue()


def time_request(send: Send, data: bytes) -> float:
    begun = time.perf_counter()
    send(data)
    return time.perf_counter() - begun


def measure_throughput(send: Send, pictures: Sequence[bytes], callers: int) -> float:
    """Return pictures per second with `callers` concurrent requests."""
    with ThreadPoolExecutor(callers) as pool:
        begun = time.perf_counter()
        list(pool.map(send, pictures))
        return len(pictures) / (time.perf_counter() - begun)


def percentile_95(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 95))


def choose_settings(python: str, module: str, folder: Path, pictures: Sequence[bytes], callers: int) -> tuple[int, int]:
    """Return the number of workers and the largest batch with the highest throughput."""
    throughputs = {}
    for workers, batch in SETTINGS:
        with run_server(python, module, folder, workers, batch) as send:
            measure_throughput(send, pictures[:callers], callers)
            throughputs[workers, batch] = measure_throughput(send, pictures, callers)
        print(
            f"{module}, {workers} workers, batch {batch}: {throughputs[workers, batch]:.2f} pictures per second",
            flush=True,
        )
    return max(throughputs, key=lambda setting: throughputs[setting])


def time_thumbnails(send: Send, large: bytes, seconds: float, count: int) -> tuple[list[float], list[float]]:
    """Return the latencies of thumbnails alone, and during a large picture: at most `count`, for at most `seconds`."""
    alone = [time_request(send, make_thumbnail(number)) for number in range(count)]
    finished = threading.Event()

    def send_large() -> None:
        with suppress(httpx.HTTPError):
            send(large)
        finished.set()

    threading.Thread(target=send_large, daemon=True).start()
    time.sleep(min(5.0, seconds / 4))  # until it is decoded and its tiles are running
    during: list[float] = []
    limit = time.perf_counter() + seconds
    while not finished.is_set() and time.perf_counter() < limit and len(during) < count:
        during.append(time_request(send, make_thumbnail(len(during))))
    if not during:
        print("the large picture finished before a thumbnail was sent; use a larger one (--large)", flush=True)
    return alone, during


def measure(
    servers: Sequence[RunningServer], options: argparse.Namespace, square: bytes
) -> dict[str, dict[str, float]]:
    """Return {figure: {server: median}}; the servers alternate."""
    mixed = [make_thumbnail(number, 64 + number * 56 % 449) for number in range(options.callers * 2)]
    squares = [square] * (options.callers * 2)
    figures: dict[str, dict[str, list[float]]] = {
        "512², latency (s)": {server.name: [] for server in servers},
        "512², pictures per second": {server.name: [] for server in servers},
        "mixed sizes, pictures per second": {server.name: [] for server in servers},
    }
    latency, throughput, both = figures.values()
    for turn in range(options.rounds):
        for server in servers:
            latency[server.name] += [time_request(server.send, square) for _ in range(3)]
            if turn % 4 == 0:
                callers = 1 if server.name == "bare loop" else options.callers
                throughput[server.name].append(measure_throughput(server.send, squares, callers))
                both[server.name].append(measure_throughput(server.send, mixed, callers))
    return {
        figure: {name: statistics.median(values) for name, values in rows.items()} for figure, rows in figures.items()
    }


def mean_difference(one: bytes, other: bytes) -> float:
    """Return the mean absolute difference of two pictures, from 0 to 255."""
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--python", required=True, help="interpreter of the environment with litserve and ray")
    arguments.add_argument("--rounds", type=int, default=8, help="number of rounds (default: 8)")
    arguments.add_argument("--callers", type=int, default=16, help="concurrent clients (default: 16)")
    arguments.add_argument("--large", type=float, default=50.0, help="megapixels of the large picture")
    arguments.add_argument("--seconds", type=float, default=120.0, help="maximum time to send thumbnails")
    arguments.add_argument("--thumbnails", type=int, default=40, help="number of thumbnails (default: 40)")
    arguments.add_argument("--only", choices=["litserve_server", "ray_server"], help="run only this other server")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    settings = Settings(precision="float32")  # as the other servers run the SavedModel
    engine = BareEngine(settings)
    model = engine.find("denoise", "photo")
    folder = ROOT / "models" / "published" / "denoise" / model.name / str(model.version)
    square = make_sample(model, 512, "JPEG")
    loop = RunningServer("bare loop", make_bare_loop(engine, settings))
    expected = loop.send(square)
    modules = [options.only] if options.only else ["litserve_server", "ray_server"]
    chosen = {
        module: choose_settings(options.python, module, folder, [square] * options.callers, options.callers)
        for module in modules
    }
    with ExitStack() as stack:
        url, _ = stack.enter_context(
            service.running(request_timeout_s="7200", preload="denoise/photo", precision="float32")
        )
        client = stack.enter_context(httpx.Client(base_url=url, timeout=None))
        ours = RunningServer(
            "this service", make_form_sender(client, "/denoise", {"model": "photo", "strength": str(LEVEL)})
        )
        servers = [loop, ours]
        for module, (workers, batch) in chosen.items():
            send = stack.enter_context(run_server(options.python, module, folder, workers, batch))
            servers.append(RunningServer(f"{module.removesuffix('_server')}, {workers}×{batch}", send))
        for server in servers:
            difference = mean_difference(server.send(square), expected)
            if difference > 1:
                raise SystemExit(f"{server.name} returned another picture (mean difference {difference:.1f} of 255)")
        figures = measure(servers, options, square)
        large = photograph(options.large)
        figures |= {"thumbnail, 95th percentile (s)": {}, "thumbnail during a large picture, 95th percentile (s)": {}}
        for server in servers[1:]:
            alone, during = time_thumbnails(server.send, large, options.seconds, options.thumbnails)
            figures["thumbnail, 95th percentile (s)"][server.name] = percentile_95(alone)
            if during:
                figures["thumbnail during a large picture, 95th percentile (s)"][server.name] = percentile_95(during)
    results.report("comparison", dict(flatten(figures)), record=not options.no_record)


def flatten(figures: dict[str, dict[str, float]]) -> Iterator[tuple[str, float]]:
    """Yield each figure of each server, and its ratio to that of the bare loop if there is one."""
    for figure, rows in figures.items():
        for name, value in rows.items():
            yield f"{figure}, {name}", value
            if name != "bare loop" and "bare loop" in rows:
                yield f"{figure}, {name}, ratio", value / rows["bare loop"]


if __name__ == "__main__":
    main()
