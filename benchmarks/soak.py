"""Soak test: checks that the service is stable over thousands of requests (Linux: reads /proc).

`python -m benchmarks.soak [--requests 10000]`

Sends requests with random tasks, sizes (16 to 192 px), formats and fields, valid and invalid, directly and as jobs,
from several clients at once; some clients disconnect while they send, wait or read. The models are small published
ones, so ten thousand requests take well under an hour on two cores. Then a fiftieth as many pictures of 1 to 6
megapixels are sent to the service with simulated models (`benchmarks.simulated_service`). A request depends only on its
number and `--seed`.

* No answer may be lost or swapped: each picture has four random corner colors, and its answer must have the right size
and,
  if the task preserves colors, these colors; some requests are repeated at the end and must get the same answer.
* No 5xx, and invalid requests get the right problem.
* Resident memory of all processes, as the median of each tenth of the run: the last is compared with the second (warm).
* At the end, the service holds no pixels, tiles or requests.

The exit code is 1 if any check but memory fails; memory is reported only.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import results, service
from benchmarks.memory import mebibytes

Pixels = NDArray[np.uint8]

DISCONNECTING = 0.05
AS_JOBS = 0.05
BAD = 0.08
"""Shares of the requests whose clients disconnect, that run as jobs, and that are invalid."""
MAX_DIFFERENCE = 45.0
"""Largest difference, of 255, between the mean colors of a sixteenth of a picture and of its answer."""
TIMEOUT_S = 300.0
"""Seconds after which a request counts as lost. The first request of a model waits until it is loaded."""
GAUGES = {"decoded_pixels": 0.0, "requests_waiting": 0.0, "queue_tiles": 0.0, "requests_active": 1.0}


@dataclass(frozen=True, slots=True)
class SoakRequest:
    """One request.

    `size` (width, height) is that of the answer; `keeps_colors` whether the answer has the picture's colors. `refusal`
    is the expected problem, `disconnect` when the client disconnects (`sending`, `waiting`, `reading`); empty for none.
    """

    number: int
    path: str
    fields: dict[str, str]
    files: dict[str, bytes]
    pixels: Pixels
    size: tuple[int, int]
    keeps_colors: bool = True
    job: bool = False
    refusal: str = ""
    disconnect: str = ""

    @property
    def id(self) -> str:
        return f"soak-{self.number}"

    def build(self, client: httpx.Client, **headers: str) -> httpx.Request:
        return client.build_request(
            "POST", self.path, files=self.files, data=self.fields, headers={"X-Request-Id": self.id, **headers}
        )


def make_pixels(chance: random.Random, width: int, height: int) -> Pixels:
    """Return a gradient between four random corner colors, with a little noise: uint8 (height, width, 3)."""
    corners = np.array([[[chance.randrange(256) for _ in range(3)] for _ in range(2)] for _ in range(2)], np.uint8)
    smooth = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.int16)
    noise = np.random.default_rng(chance.randrange(2**32)).integers(-6, 7, (height, width, 1), np.int8)
    pixels: Pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return pixels


def encode(pixels: Pixels, form: str) -> bytes:
    """Return the pixels as a file of the format `form`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def make_small_request(number: int, seed: int, style: str) -> SoakRequest:
    """Return request `number` for the published models; `style` is a preset's name."""
    chance = random.Random(f"{seed} {number}")
    width, height = chance.randint(16, 192), chance.randint(16, 192)
    kind = chance.choice(["photo", "digits", "superres", "road", "person", "table", "telea", "ns", "neural", "stylize"])
    if kind == "digits":
        width = height = 28
    pixels = make_pixels(chance, width, height)
    if kind == "digits":
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    gray = pixels[..., 0] if kind == "digits" else pixels
    forms = ["PNG", "JPEG", "TIFF"] if kind == "digits" else ["PNG", "JPEG", "TIFF", "WEBP"]  # WebP has no gray
    files = {"image": encode(gray, chance.choice(forms))}
    fields = {"format": chance.choice(["png", "jpeg", "webp"])}
    times, keeps_colors = 1, True
    match kind:
        case "photo":
            path = "/denoise"
            fields["strength"] = chance.choice(["auto", "0.1", "0.3"])
        case "digits":
            path = "/denoise"
            fields["model"] = chance.choice(["digits", "digits-autoencoder"])
            keeps_colors = False  # the network turns any picture into a digit
        case "superres":
            path, times = "/superres", 2
            fields |= {"model": "unet", "scale": "2"}
        case "road" | "person":
            path = "/segment"
            fields |= {"model": kind, "output": "overlay", "opacity": "0.1"}
        case "table":
            path, fields = "/segment", {"model": "road", "output": "json"}
            keeps_colors = False
        case "stylize":
            path, keeps_colors = "/stylize", False
            fields |= {"style": style, "preserve_color": chance.choice(["true", "false"])}
        case _:
            path = "/inpaint"
            fields["method"] = kind
            hole = np.zeros((height, width), np.uint8)
            left, top = chance.randrange(width - 8), chance.randrange(height - 8)
            hole[top : top + chance.randint(2, 8), left : left + chance.randint(2, 8)] = 255
            files["mask"] = encode(hole, "PNG")
    return vary(SoakRequest(number, path, fields, files, pixels, (width * times, height * times), keeps_colors), chance)


def make_large_request(number: int, seed: int) -> SoakRequest:
    """Return request `number` for the simulated models."""
    chance = random.Random(f"large {seed} {number}")
    width, height = chance.randint(1000, 3000), chance.randint(1000, 2000)
    pixels = make_pixels(chance, width, height)
    files = {"image": encode(pixels, "JPEG")}
    fields = {"strength": "0.3", "format": chance.choice(["png", "jpeg", "jpeg", "jpeg"])}
    return vary(SoakRequest(number, "/denoise", fields, files, pixels, (width, height)), chance)


def vary(request: SoakRequest, chance: random.Random) -> SoakRequest:
    """Return the request unchanged, or invalid, or with a client that disconnects, or as a job."""
    changes = {name: getattr(request, name) for name in SoakRequest.__slots__}
    draw = chance.random()
    if draw < BAD:
        problem = chance.choice(
            ["unknown-field", "invalid-field", "unsupported-image", "broken-image", "unknown-model"]
        )
        changes["refusal"] = problem
        if problem == "unknown-field":
            changes["fields"] = {**request.fields, "strenght": "1"}
        elif problem == "invalid-field":
            changes["fields"] = {**request.fields, "quality": "101"}
        elif problem == "unknown-model":
            changes["fields"] = {**request.fields, "method": "neural", "model": "nobody"}
            if request.path != "/inpaint":
                del changes["fields"]["method"]
        elif problem == "broken-image":
            data = encode(request.pixels, "PNG")
            changes["files"] = {**request.files, "image": data[: len(data) // 2]}
        else:
            changes["files"] = {**request.files, "image": chance.randbytes(300)}
    elif draw < BAD + DISCONNECTING:
        changes["disconnect"] = chance.choice(["sending", "waiting", "reading"])
    elif draw < BAD + DISCONNECTING + AS_JOBS:
        changes["job"] = True
    return SoakRequest(**changes)


@dataclass
class Soak:
    """One run against the service at `url` with the process id `process`."""

    url: str
    process: int
    make_request: Callable[[int], SoakRequest]
    requests: int
    repeats: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    answers: dict[int, httpx.Response] = field(default_factory=dict)

    def run(self, callers: int) -> None:
        """Send all requests, repeat some, and check that the service holds nothing afterwards."""
        numbers = itertools.count()
        threads = [threading.Thread(target=self._call, args=(numbers,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S) as client:
            for number, first in sorted(self.answers.items()):
                second = client.send(self.make_request(number).build(client))
                self.counts["repeated"] += 1
                self.counts["identical"] += first.content == second.content
                if not agree(first, second):
                    self.failures.append(f"{number}: different answer when repeated")
            limit = time.monotonic() + 30
            while (current := read_gauges(client)) != GAUGES and time.monotonic() < limit:
                time.sleep(0.1)
            if current != GAUGES:
                self.failures.append(f"at the end: {current}")

    def _call(self, numbers: itertools.count[int]) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S) as client:
            for number in numbers:
                if number >= self.requests:
                    return
                request = self.make_request(number)
                try:
                    problem = self._send(client, request)
                except (httpx.TransportError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    self.failures.append(f"{number} {request.path} {request.fields}: {problem}")
                if number % 10 == 0:
                    self.resident.append(mebibytes(self.process))

    def _send(self, client: httpx.Client, request: SoakRequest) -> str:
        """Send one request; return what is wrong with its answer, or an empty string."""
        if request.disconnect:
            self.counts["disconnected"] += 1
            send_and_disconnect(self.url, request.build(client), request.disconnect)
            return ""
        answer = client.send(request.build(client, **({"Prefer": "respond-async"} if request.job else {})))
        if answer.headers.get("x-request-id") != request.id:
            return "the answer of another request"
        if request.refusal:
            self.counts["refused"] += 1
            slug = answer.json().get("type", "")
            return (
                ""
                if slug == f"/problems/{request.refusal}"
                else f"{answer.status_code} {slug} and not {request.refusal}"
            )
        if request.job:
            self.counts["jobs"] += 1
            answer = fetch_job(client, answer)
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:200]}"
        self.counts["answered"] += 1
        if request.number % max(1, self.requests // self.repeats) == 0 and not request.job:
            self.answers[request.number] = answer
        return check_answer(request, answer)


def send_and_disconnect(url: str, request: httpx.Request, moment: str) -> None:
    """Send a request, wholly or in part, and close the connection at `moment`."""
    body = request.read()
    names = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    head = f"POST {request.url.path} HTTP/1.1\r\n{names}\r\n".encode()
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), TIMEOUT_S) as raw:
        if moment == "sending":
            raw.sendall(head + body[: len(body) // 2])
            return
        raw.sendall(head + body)
        if moment == "waiting":
            time.sleep(random.random() / 5)
        else:
            raw.recv(100)


def fetch_job(client: httpx.Client, accepted: httpx.Response) -> httpx.Response:
    """Wait for a job, return its result, and delete the job."""
    if accepted.status_code != 202:
        return accepted
    address = accepted.headers["location"]
    while client.get(address).json()["state"] in ("queued", "running"):
        time.sleep(0.05)
    answer = client.get(f"{address}/result")
    client.delete(address).raise_for_status()
    return answer


def check_answer(request: SoakRequest, answer: httpx.Response) -> str:
    """Return why the answer does not belong to this request, or an empty string."""
    if answer.headers["content-type"] == "application/json":
        pixels = sum(one["pixels"] for one in answer.json()["classes"])
        return "" if pixels <= request.size[0] * request.size[1] else f"{pixels} pixels in a table"
    pixels = open_picture(answer)
    if pixels.shape[1::-1] != request.size:
        return f"{pixels.shape[1::-1]} and not {request.size}"
    if not request.keeps_colors:
        return ""
    expected, got = (
        cv2.resize(one, (4, 4), interpolation=cv2.INTER_AREA).astype(int) for one in (request.pixels, pixels)
    )
    difference = int(np.abs(expected - got).max())
    return "" if difference <= MAX_DIFFERENCE else f"colors of another picture: difference {difference} of 255"


def agree(one: httpx.Response, other: httpx.Response) -> bool:
    """Tell whether two answers to the same request agree; pixels may differ slightly, by the order of additions."""
    if one.headers["content-type"] != other.headers["content-type"]:
        return False
    if one.headers["content-type"] == "application/json":
        tables: list[dict[str, Any]] = [json.loads(answer.content) for answer in (one, other)]
        return len({json.dumps({**table, "timing": 0}) for table in tables}) == 1
    pixels, others = open_picture(one).astype(int), open_picture(other).astype(int)
    return pixels.shape == others.shape and float(np.abs(pixels - others).mean()) < 1


def open_picture(answer: httpx.Response) -> Pixels:
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB"))


def read_gauges(client: httpx.Client) -> dict[str, float]:
    """Return the values of GAUGES."""
    found = service.metrics(client)
    return {name: round(found[f"restore_{name}"], 6) for name in GAUGES}


def report(name: str, soak: Soak, seconds: float) -> dict[str, float | int | str]:
    """Return the figures of a run that took `seconds`."""
    tenth = max(1, len(soak.resident) // 10)
    tenths = [statistics.median(soak.resident[at * tenth : (at + 1) * tenth] or [0]) for at in range(10)]
    kinds = ("answered", "refused", "disconnected", "jobs", "repeated", "identical")
    return {
        **{f"{name}, {kind}": soak.counts[kind] for kind in kinds},
        f"{name}, failures": len(soak.failures),
        f"{name}, seconds": round(seconds),
        f"{name}, resident by tenth (MiB)": " ".join(f"{median:.0f}" for median in tenths),
        f"{name}, last tenth over second": tenths[-1] / tenths[1],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=10_000, help="number of requests (default: 10000)")
    arguments.add_argument("--callers", type=int, default=8, help="concurrent clients (default: 8)")
    arguments.add_argument("--repeats", type=int, default=300, help="how many requests are repeated at the end")
    arguments.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    figures: dict[str, float | int | str] = {"requests": options.requests, "seed": options.seed}
    failures: list[str] = []

    def run_soak(name: str, module: str, requests: int, make: Callable[[str], Callable[[int], SoakRequest]]) -> None:
        with service.running(module, queue_megapixels="1000") as (url, process):
            run = Soak(url, process, make(url), requests, min(options.repeats, requests))
            begun = time.perf_counter()
            run.run(options.callers)
            figures.update(report(name, run, time.perf_counter() - begun))
            failures.extend(run.failures)

    def first_style(url: str) -> str:
        return str(httpx.get(f"{url}/styles").json()["styles"][0]["name"])

    run_soak(
        "small",
        "app",
        options.requests,
        lambda url: partial(make_small_request, seed=options.seed, style=first_style(url)),
    )
    run_soak(
        "large",
        "benchmarks.simulated_service",
        max(10, options.requests // 50),
        lambda _: partial(make_large_request, seed=options.seed),
    )
    results.report("soak", figures, record=not options.no_record)
    for failure in failures[:20]:
        print(failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
