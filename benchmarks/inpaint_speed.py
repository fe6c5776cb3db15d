"""Measures `/inpaint` with `method=auto`: `python -m benchmarks.inpaint_speed`.

Three requests, each sent twice to a service that has just become ready: 512×512 with one hole of 10 %, 1500×1000 with
34 holes (7 %), and 12 megapixels with a hole of one megapixel: seconds, seconds of processor time, which other
programs on the machine change little, memory, and the longest time of `/livez`, which is asked every 20 ms.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from benchmarks import results, service
from benchmarks.memory import Peak, mebibytes
from training.evaluation.service import encode_png


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Return gravel in color with grain, uint8 (height, width, 3)."""
    gravel = Image.fromarray(skimage.data.gravel()).resize((width, height), Image.Resampling.BICUBIC)
    warm = np.asarray(gravel)[..., None] * np.array([1.0, 0.9, 0.8])
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 1))
    return np.asarray(np.clip(warm + noise, 0, 255), np.uint8)


def holes(width: int, height: int, boxes: list[tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    """Return a mask, uint8 (height, width), of boxes (left, top, width, height)."""
    mask = np.zeros((height, width), np.uint8)
    for left, top, wide, tall in boxes:
        mask[top : top + tall, left : left + wide] = 255
    return mask


SCATTERED = [(60 + 158 * (i % 9), 100 + 230 * (i // 9), 52, 60) for i in range(34)]
CASES = {
    "512×512, a hole of 10 %": (512, 512, [(180, 170, 162, 162)]),
    "1500×1000, 34 holes, 7 %": (1500, 1000, SCATTERED),
    "12 megapixels, a hole of one": (4000, 3000, [(1500, 1000, 1000, 1000)]),
}


def processor_seconds(process: int) -> float:
    """Return the processor time that a process and its threads have used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Liveness:
    """The longest time that `/livez` took while a block ran, in milliseconds.

    A process of its own asks: in this one, it would wait for the request that is prepared here.
    """

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._asking, self._ended, self._longest = context.Event(), context.Event(), context.Value("d", 0.0)
        self._process = context.Process(target=_ask, args=(url, self._asking, self._ended, self._longest))

    def __enter__(self) -> Liveness:
        self._process.start()
        self._asking.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._process.join()

    @property
    def milliseconds(self) -> float:
        """The longest time until now."""
        return float(self._longest.value)


def _ask(url: str, asking: Event, ended: Event, longest: Synchronized[float]) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/livez")  # connect
        asking.set()
        while not ended.wait(0.02):
            begun = time.perf_counter()
            client.get("/livez").raise_for_status()
            longest.value = max(longest.value, 1000 * (time.perf_counter() - begun))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    figures: dict[str, float | int | str] = {}
    with service.running(request_timeout_s="600") as (url, process):
        idle = mebibytes(process)
        for name, (width, height, boxes) in CASES.items():
            sent = {"image": encode_png(picture(width, height)), "mask": encode_png(holes(width, height, boxes))}
            for turn in ("first", "second"):
                with Liveness(url) as live, Peak(process) as peak:
                    begun, used = time.perf_counter(), processor_seconds(process)
                    answer = httpx.post(f"{url}/inpaint", files=sent, timeout=600)
                    seconds = time.perf_counter() - begun
                answer.raise_for_status()
                figures[f"{name}, {turn} (s)"] = seconds
                figures[f"{name}, {turn}, processor (s)"] = processor_seconds(process) - used
            figures[f"{name}, X-Applied"] = answer.headers["X-Applied"]
            figures[f"{name}, peak over idle (MiB)"] = peak.mebibytes - idle
            figures[f"{name}, longest /livez (ms)"] = live.milliseconds
    results.report("inpaint_speed", figures, record=not options.no_record)


if __name__ == "__main__":
    main()
