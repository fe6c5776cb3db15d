"""Whether the service stays as it was: `python -m benchmarks.soak [--requests 10000]` (Linux: reads /proc).

Requests of random tasks, sizes (16 to 192 px), formats and fields, good and bad, directly and as jobs, from several
callers at once; some callers die while they send, wait or read. The models are small published ones, so that ten
thousand take well under an hour of two cores. Then a fiftieth as many pictures of 1 to 6 megapixels go to the service
over models of known cost (`benchmarks.costed`). All of a request follows from its number, `--seed` included.

* No answer may be lost or another's: each picture has four corner colors of its own, and its answer must have its size
  and, where the task keeps colors, these; some are sent once more, alone, at the end, and must get the same answer.
* No 5xx, and what is wrong with a request is told.
* Resident memory, median of each tenth of the run: the second (warm) against the last.
* At the end nothing is held: no pixels, no tickets, no requests.

Exit code 1 if anything but memory is not as it should be; memory is for the reader to judge.
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

DYING = 0.05
AS_JOBS = 0.05
BAD = 0.08
"""Shares of the requests whose callers die, that ask for a job, and that are wrong."""
APART = 45.0
"""How far the mean of a sixteenth of a picture may be from that of its answer, of 255."""
PATIENCE_S = 300.0
"""Seconds that a caller waits: one that waits longer counts as lost. The first of a model waits until it is loaded."""
GAUGES = {"decoded_megapixels": 0.0, "requests_waiting": 0.0, "queue_tiles": 0.0, "requests_active": 1.0}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `size` (width, height) is its answer's; `keeps` where the answer has the picture's colors."""

    number: int
    path: str
    fields: dict[str, str]
    files: dict[str, bytes]
    pixels: Pixels
    size: tuple[int, int]
    keeps: bool = True
    job: bool = False
    refusal: str = ""
    death: str = ""

    @property
    def id(self) -> str:
        return f"soak-{self.number}"

    def request(self, client: httpx.Client, **headers: str) -> httpx.Request:
        return client.build_request(
            "POST", self.path, files=self.files, data=self.fields, headers={"X-Request-Id": self.id, **headers}
        )


def marked(chance: random.Random, width: int, height: int) -> Pixels:
    """Return a picture that runs between four colors of its own, with a little noise."""
    corners = np.array([[[chance.randrange(256) for _ in range(3)] for _ in range(2)] for _ in range(2)], np.uint8)
    smooth = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.int16)
    noise = np.random.default_rng(chance.randrange(2**32)).integers(-6, 7, (height, width, 1), np.int8)
    pixels: Pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return pixels


def written(pixels: Pixels, form: str) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def small(number: int, seed: int, style: str) -> Ask:
    """Return the request of this number over the published models; `style` is a preset's name."""
    chance = random.Random(f"{seed} {number}")
    width, height = chance.randint(16, 192), chance.randint(16, 192)
    kind = chance.choice(["photo", "digits", "superres", "road", "person", "table", "telea", "ns", "neural", "stylize"])
    if kind == "digits":
        width = height = 28
    pixels = marked(chance, width, height)
    if kind == "digits":
        pixels = np.repeat(pixels.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    gray = pixels[..., 0] if kind == "digits" else pixels
    forms = ["PNG", "JPEG", "TIFF"] if kind == "digits" else ["PNG", "JPEG", "TIFF", "WEBP"]  # WebP knows no gray
    files = {"image": written(gray, chance.choice(forms))}
    fields = {"format": chance.choice(["png", "jpeg", "webp"])}
    times, keeps = 1, True
    match kind:
        case "photo":
            path = "/denoise"
            fields["strength"] = chance.choice(["auto", "0.1", "0.3"])
        case "digits":
            path = "/denoise"
            fields["model"] = chance.choice(["digits", "digits-autoencoder"])
            keeps = False  # a network for digits makes one of anything
        case "superres":
            path, times = "/superres", 2
            fields |= {"model": "unet", "scale": "2"}
        case "road" | "person":
            path = "/segment"
            fields |= {"model": kind, "output": "overlay", "opacity": "0.1"}
        case "table":
            path, fields = "/segment", {"model": "road", "output": "json"}
            keeps = False
        case "stylize":
            path, keeps = "/stylize", False
            fields |= {"style": style, "preserve_color": chance.choice(["true", "false"])}
        case _:
            path = "/inpaint"
            fields["method"] = kind
            hole = np.zeros((height, width), np.uint8)
            left, top = chance.randrange(width - 8), chance.randrange(height - 8)
            hole[top : top + chance.randint(2, 8), left : left + chance.randint(2, 8)] = 255
            files["mask"] = written(hole, "PNG")
    return spoilt(Ask(number, path, fields, files, pixels, (width * times, height * times), keeps), chance)


def large(number: int, seed: int) -> Ask:
    """Return the request of this number over models of known cost."""
    chance = random.Random(f"large {seed} {number}")
    width, height = chance.randint(1000, 3000), chance.randint(1000, 2000)
    pixels = marked(chance, width, height)
    files = {"image": written(pixels, "JPEG")}
    fields = {"strength": "0.3", "format": chance.choice(["png", "jpeg", "jpeg", "jpeg"])}
    return spoilt(Ask(number, "/denoise", fields, files, pixels, (width, height)), chance)


def spoilt(ask: Ask, chance: random.Random) -> Ask:
    """Return the request as it is, or wrong in some way, or of a caller who dies, or as a job."""
    wish = {name: getattr(ask, name) for name in Ask.__slots__}
    lot = chance.random()
    if lot < BAD:
        wrong = chance.choice(["unknown-field", "invalid-field", "unsupported-image", "broken-image", "unknown-model"])
        wish["refusal"] = wrong
        if wrong == "unknown-field":
            wish["fields"] = {**ask.fields, "strenght": "1"}
        elif wrong == "invalid-field":
            wish["fields"] = {**ask.fields, "quality": "101"}
        elif wrong == "unknown-model":
            wish["fields"] = {**ask.fields, "method": "neural", "model": "nobody"}
            if ask.path != "/inpaint":
                del wish["fields"]["method"]
        elif wrong == "broken-image":
            data = written(ask.pixels, "PNG")
            wish["files"] = {**ask.files, "image": data[: len(data) // 2]}
        else:
            wish["files"] = {**ask.files, "image": chance.randbytes(300)}
    elif lot < BAD + DYING:
        wish["death"] = chance.choice(["sending", "waiting", "reading"])
    elif lot < BAD + DYING + AS_JOBS:
        wish["job"] = True
    return Ask(**wish)


@dataclass
class Soak:
    """One run against a service at `url` whose process is `process`."""

    url: str
    process: int
    make: Callable[[int], Ask]
    requests: int
    again: int
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    kept: dict[int, httpx.Response] = field(default_factory=dict)

    def run(self, callers: int) -> None:
        """Send all requests, then some again, and look whether anything is held."""
        numbers = itertools.count()
        threads = [threading.Thread(target=self._call, args=(numbers,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            for number, first in sorted(self.kept.items()):
                second = client.send(self.make(number).request(client))
                self.counts["sent again"] += 1
                self.counts["byte for byte"] += first.content == second.content
                if not alike(first, second):
                    self.wrong.append(f"{number}: alone, another answer")
            limit = time.monotonic() + 30
            while (held := gauges(client)) != GAUGES and time.monotonic() < limit:
                time.sleep(0.1)
            if held != GAUGES:
                self.wrong.append(f"at the end: {held}")

    def _call(self, numbers: itertools.count[int]) -> None:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            for number in numbers:
                if number >= self.requests:
                    return
                ask = self.make(number)
                try:
                    problem = self._send(client, ask)
                except (httpx.TransportError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    self.wrong.append(f"{number} {ask.path} {ask.fields}: {problem}")
                self.resident.append(mebibytes(self.process, "VmRSS"))

    def _send(self, client: httpx.Client, ask: Ask) -> str:
        """Send one request; return what is wrong with its answer."""
        if ask.death:
            self.counts["died"] += 1
            die(self.url, ask.request(client), ask.death)
            return ""
        answer = client.send(ask.request(client, **({"Prefer": "respond-async"} if ask.job else {})))
        if answer.headers.get("x-request-id") != ask.id:
            return "the answer of another request"
        if ask.refusal:
            self.counts["refused"] += 1
            told = answer.json().get("type", "")
            return "" if told == f"/problems/{ask.refusal}" else f"{answer.status_code} {told} and not {ask.refusal}"
        if ask.job:
            self.counts["jobs"] += 1
            answer = fetched(client, answer)
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:200]}"
        self.counts["answered"] += 1
        if ask.number % max(1, self.requests // self.again) == 0 and not ask.job:
            self.kept[ask.number] = answer
        return compared(ask, answer)


def die(url: str, request: httpx.Request, moment: str) -> None:
    """Send a request, wholly or in part, and close the connection at this moment."""
    body = request.read()
    names = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    head = f"POST {request.url.path} HTTP/1.1\r\n{names}\r\n".encode()
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), PATIENCE_S) as raw:
        if moment == "sending":
            raw.sendall(head + body[: len(body) // 2])
            return
        raw.sendall(head + body)
        if moment == "waiting":
            time.sleep(random.random() / 5)
        else:
            raw.recv(100)


def fetched(client: httpx.Client, accepted: httpx.Response) -> httpx.Response:
    """Return a job's result once it is there, and erase the job."""
    if accepted.status_code != 202:
        return accepted
    address = accepted.headers["location"]
    while client.get(address).json()["state"] in ("queued", "running"):
        time.sleep(0.05)
    answer = client.get(f"{address}/result")
    client.delete(address).raise_for_status()
    return answer


def compared(ask: Ask, answer: httpx.Response) -> str:
    """Return in what the answer is not that of this request."""
    if answer.headers["content-type"] == "application/json":
        pixels = sum(one["pixels"] for one in answer.json()["classes"])
        return "" if pixels <= ask.size[0] * ask.size[1] else f"{pixels} pixels in a table"
    found = opened(answer)
    if found.shape[1::-1] != ask.size:
        return f"{found.shape[1::-1]} and not {ask.size}"
    if not ask.keeps:
        return ""
    expected, got = (cv2.resize(one, (4, 4), interpolation=cv2.INTER_AREA).astype(int) for one in (ask.pixels, found))
    apart = int(np.abs(expected - got).max())
    return "" if apart <= APART else f"colors of another picture: {apart} of 255 apart"


def alike(one: httpx.Response, other: httpx.Response) -> bool:
    """Return whether two answers to the same request agree: a device adds in any order."""
    if one.headers["content-type"] != other.headers["content-type"]:
        return False
    if one.headers["content-type"] == "application/json":
        tables: list[dict[str, Any]] = [json.loads(answer.content) for answer in (one, other)]
        return len({json.dumps({**table, "timing": 0}) for table in tables}) == 1
    pixels, others = opened(one).astype(int), opened(other).astype(int)
    return pixels.shape == others.shape and float(np.abs(pixels - others).mean()) < 1


def opened(answer: httpx.Response) -> Pixels:
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB"))


def gauges(client: httpx.Client) -> dict[str, float]:
    """Return what the service holds now."""
    found = service.metrics(client)
    return {name: round(found[f"restore_{name}"], 6) for name in GAUGES}


def report(name: str, soak: Soak, seconds: float) -> dict[str, float | int | str]:
    """Return the figures of a run."""
    tenth = max(1, len(soak.resident) // 10)
    tenths = [statistics.median(soak.resident[at * tenth : (at + 1) * tenth] or [0]) for at in range(10)]
    kinds = ("answered", "refused", "died", "jobs", "sent again", "byte for byte")
    return {
        **{f"{name}, {kind}": soak.counts[kind] for kind in kinds},
        f"{name}, wrong": len(soak.wrong),
        f"{name}, seconds": round(seconds),
        f"{name}, resident by tenth (MiB)": " ".join(f"{median:.0f}" for median in tenths),
        f"{name}, last tenth over second": tenths[-1] / tenths[1],
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=10_000)
    arguments.add_argument("--callers", type=int, default=8)
    arguments.add_argument("--again", type=int, default=300, help="how many are sent once more at the end")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    wish = arguments.parse_args()
    figures: dict[str, float | int | str] = {"requests": wish.requests, "seed": wish.seed}
    wrong: list[str] = []

    def soak(name: str, module: str, requests: int, make: Callable[[str], Callable[[int], Ask]]) -> None:
        with service.running(module, queue_megapixels="1000") as (url, process):
            run = Soak(url, process, make(url), requests, min(wish.again, requests))
            begun = time.perf_counter()
            run.run(wish.callers)
            figures.update(report(name, run, time.perf_counter() - begun))
            wrong.extend(run.wrong)

    def preset(url: str) -> str:
        return str(httpx.get(f"{url}/styles").json()["styles"][0]["name"])

    soak("small", "app", wish.requests, lambda url: partial(small, seed=wish.seed, style=preset(url)))
    soak("large", "benchmarks.costed", max(10, wish.requests // 50), lambda _: partial(large, seed=wish.seed))
    results.keep("soak", figures, record=not wish.no_record)
    for sentence in wrong[:20]:
        print(sentence)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
