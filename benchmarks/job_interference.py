"""Measures how much a running job slows down requests.

`python -m benchmarks.job_interference [--side 512] [--rounds 4]`

A picture is sent to `/denoise`, alternately without and with a running `/stylize` job that optimizes. Reports medians
and the added time, also as a multiple of one device call of the job. Needs stylize/vgg19 in a model repository (`python
-m training publish vgg19`).
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


def make_png(side: int) -> bytes:
    """Return scikit-image's astronaut as PNG, `side` × `side` pixels."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).resize((side, side)).save(file, "PNG")
    return file.getvalue()


def time_requests(client: httpx.Client, data: bytes, count: int) -> list[float]:
    """Return the seconds that each of `count` sequential requests takes."""
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        client.post("/denoise", files={"image": data}).raise_for_status()
        seconds.append(time.perf_counter() - begun)
    return seconds


def start_job(client: httpx.Client) -> str:
    """Start a job that outlasts the measurement, and return its URL once it has taken 20 steps.

    Raises SystemExit with the job's problem if it ends before.
    """
    files = {"image": photograph(1.0), "style_image": make_png(512)}
    fields = {"method": "optimize", "steps": "2000"}
    answer = client.post("/stylize", files=files, data=fields, headers={"Prefer": "respond-async"})
    answer.raise_for_status()
    address = answer.headers["Location"]
    while True:
        job = client.get(address).raise_for_status().json()
        if job["state"] not in ("queued", "running"):
            detail = (job["problem"] or {}).get("detail", "no detail")
            raise SystemExit(f"the job ended during the measurement ({job['state']}): {detail}")
        if job["done"] >= 20:
            return str(address)
        time.sleep(0.2)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--side", type=int, default=512, help="height and width of the pictures (default: 512)")
    arguments.add_argument("--rounds", type=int, default=4, help="number of rounds (default: 4)")
    arguments.add_argument("--requests", type=int, default=5, help="requests per round, without and with the job")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    data = make_png(options.side)
    alone: list[float] = []
    with_job: list[float] = []
    calls: list[float] = []
    with service.running() as (url, _), httpx.Client(base_url=url, timeout=600) as client:
        time_requests(client, data, 1)
        for _ in range(options.rounds):
            alone += time_requests(client, data, options.requests)
            job = start_job(client)
            with_job += time_requests(client, data, options.requests)
            calls.append(measure_device_call(client))
            client.delete(job).raise_for_status()
    added = statistics.median(with_job) - statistics.median(alone)
    results.report(
        "job_interference",
        {
            "side": options.side,
            "alone (s)": statistics.median(alone),
            "with a job (s)": statistics.median(with_job),
            "added (s)": added,
            "device call of the job (s)": statistics.median(calls),
            "added, in device calls": added / statistics.median(calls),
        },
        record=not options.no_record,
    )


def measure_device_call(client: httpx.Client) -> float:
    """Return the device's seconds per batch while only the job runs."""
    before = read_counters(client)
    time.sleep(10)
    after = read_counters(client)
    return (after[0] - before[0]) / max(1.0, after[1] - before[1])


def read_counters(client: httpx.Client) -> tuple[float, float]:
    """Return the device's busy seconds and number of batches so far."""
    metrics = service.metrics(client)
    return metrics["restore_device_busy_seconds_total"], metrics["restore_device_batches_total"]


if __name__ == "__main__":
    main()
