"""Measures the service's peak memory for a large picture.

`python -m benchmarks.memory [--task denoise] [--model NAME] [--megapixels 24] [--scratches 200] [--method auto]`
(Linux: reads /proc)

Resident memory of the service and its decoders, as the kernel counts it: idle, and the peak during one request with a
JPEG of that size, read every 20 ms. What processes share is counted once. The peak should be bounded by the settings:
without tiles, a picture of 24 megapixels would take 13 GB.
`working` is the time without decoding and encoding; for `inpaint`, it should depend on the scratches, not on the
picture.
"""

from __future__ import annotations

import argparse
import io
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

import cv2
import httpx
import numpy as np
import skimage.data
from PIL import Image

from app.limits.memory import read_proportional_memory
from benchmarks import results, service


def photograph(megapixels: float) -> bytes:
    """Return a noisy JPEG of 3:2 and about `megapixels`."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(height * 1.5)
    enlarged = Image.fromarray(skimage.data.coffee()).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(enlarged).astype(np.int16)
    pixels += np.random.default_rng(0).integers(-25, 26, pixels.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def scratches(size: tuple[int, int], count: int) -> bytes:
    """Return a mask, as PNG, of `count` scratches over a picture of `size` (width, height)."""
    random = np.random.default_rng(0)
    missing = np.zeros(size[::-1], np.uint8)
    for _ in range(count):
        begin, along = random.uniform((0, 0), size), random.normal(0, 300, 2)
        ends = [tuple(map(int, point)) for point in (begin, begin + along)]
        cv2.line(missing, ends[0], ends[1], 255, int(random.integers(1, 6)))
    return cv2.imencode(".png", missing)[1].tobytes()


def family(process: int) -> list[int]:
    """Return a process and all that it started, directly or not."""
    found = [process]
    for parent in found:
        with suppress(OSError):  # it has ended
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def mebibytes(process: int) -> int:
    """Return the resident memory of a process and of all that it started; what they share is counted once."""
    return sum(map(read_proportional_memory, family(process))) >> 20


class Peak:
    """The highest memory of a process and all that it started, while a block runs."""

    def __init__(self, process: int) -> None:
        self.mebibytes = 0
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.mebibytes = max(self.mebibytes, mebibytes(self._process))


def measure(
    task: str, model: str | None, megapixels: float, *, count: int = 200, method: str = "auto"
) -> dict[str, float | int | str]:
    """Return the figures of one request to a service of its own. `count` scratches and `method` are for `inpaint`."""
    data = photograph(megapixels)
    with service.running(request_timeout_s="7200", body_timeout_s="600") as (url, process):
        idle = mebibytes(process)
        begun = time.perf_counter()
        fields = {"model": model} if model else {}
        sent = {"image": ("large.jpg", data)}
        if task == "inpaint":
            sent["mask"] = ("mask.png", scratches(Image.open(io.BytesIO(data)).size, count))
            fields["method"] = method
        if task == "stylize":
            fields["style"] = httpx.get(f"{url}/styles").json()["styles"][0]["name"]
        with Peak(process) as peak:
            answer = httpx.post(f"{url}/{task}", files=sent, data=fields, timeout=7200)
        seconds = time.perf_counter() - begun
        answer.raise_for_status()
        size = Image.open(io.BytesIO(answer.content)).size
        stages = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"]))
        after = mebibytes(process)
    return {
        "model": answer.headers.get("X-Model", answer.headers["X-Applied"]),
        "megapixels in": megapixels,
        "megapixels out": size[0] * size[1] / 1e6,
        "seconds": seconds,
        "working (s)": (float(stages["queue"]) + float(stages["model"])) / 1000,
        "idle (MiB)": idle,
        "peak (MiB)": peak.mebibytes,
        "after (MiB)": after,
        "peak over idle (MiB)": peak.mebibytes - idle,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--task", choices=["denoise", "superres", "segment", "inpaint", "stylize"], default="denoise"
    )
    arguments.add_argument("--model", help="name of the model (default: the default model of the task)")
    arguments.add_argument("--megapixels", type=float, default=24.0, help="size of the picture (default: 24)")
    arguments.add_argument("--scratches", type=int, default=200, help="for --task inpaint")
    arguments.add_argument("--method", default="auto", help="for --task inpaint")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    figures = measure(options.task, options.model, options.megapixels, count=options.scratches, method=options.method)
    results.report("memory", figures, record=not options.no_record)


if __name__ == "__main__":
    main()
