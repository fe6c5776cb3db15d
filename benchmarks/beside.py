"""What a running job costs those who wait: `python -m benchmarks.beside [--side 512] [--rounds 4]`.

A picture goes through `/denoise`, alone and beside a job of `/stylize` by optimisation, in turns: medians, and what the
job adds, in times of the job's own calls of the device. Needs stylize/vgg19 on a shelf (`python -m training publish
vgg19`).
"""

from __future__ import annotations

import argparse
import io
import statistics
import time

import httpx
import skimage.data
from PIL import Image

from benchmarks import results, service
from benchmarks.memory import photograph


def png(side: int) -> bytes:
    """Return scikit-image's astronaut, `side` pixels a side."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((side, side)).save(file, "PNG")
    return file.getvalue()


def timed(client: httpx.Client, data: bytes, count: int) -> list[float]:
    """Return the seconds of `count` requests, one after the other."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        client.post("/denoise", files={"image": data}).raise_for_status()
        found.append(time.perf_counter() - begun)
    return found


def started(client: httpx.Client) -> str:
    """Start a job that outlasts the measurement, and return its address once it has begun to take steps.

    Ends the program with the job's problem where it is over before.
    """
    files = {"image": photograph(1.0), "style_image": png(512)}
    asked = {"method": "optimize", "steps": "2000"}
    answer = client.post("/stylize", files=files, data=asked, headers={"Prefer": "respond-async"})
    answer.raise_for_status()
    address = answer.headers["Location"]
    while True:
        job = client.get(address).raise_for_status().json()
        if job["state"] not in ("queued", "running"):
            why = (job["problem"] or {}).get("detail", "it says no more")
            raise SystemExit(f"the job to measure beside is over, {job['state']}: {why}")
        if job["done"] >= 20:
            return str(address)
        time.sleep(0.2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--side", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--requests", type=int, default=5, help="a round, alone and beside the job")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    wish = arguments.parse_args()
    data = png(wish.side)
    alone: list[float] = []
    beside: list[float] = []
    calls: list[float] = []
    with service.running() as (url, _), httpx.Client(base_url=url, timeout=600) as client:
        timed(client, data, 1)
        for _ in range(wish.rounds):
            alone += timed(client, data, wish.requests)
            job = started(client)
            beside += timed(client, data, wish.requests)
            calls.append(seconds_of_a_call(client))
            client.delete(job).raise_for_status()
    added = statistics.median(beside) - statistics.median(alone)
    results.keep(
        "beside",
        {
            "side": wish.side,
            "alone (s)": statistics.median(alone),
            "beside a job (s)": statistics.median(beside),
            "added (s)": added,
            "a call of the job (s)": statistics.median(calls),
            "added, in calls": added / statistics.median(calls),
        },
        record=not wish.no_record,
    )


def seconds_of_a_call(client: httpx.Client) -> float:
    """Return how long the device is busy with one call of the job, while nobody else asks."""
    before = counters(client)
    time.sleep(10)
    after = counters(client)
    return (after[0] - before[0]) / max(1.0, after[1] - before[1])


def counters(client: httpx.Client) -> tuple[float, float]:
    """Return the device's busy seconds and batches so far."""
    found = service.metrics(client)
    return found["restore_device_busy_seconds"], found["restore_device_batches"]


if __name__ == "__main__":
    main()
