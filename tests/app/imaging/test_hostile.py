"""Hostile files: each is refused, or decoded to the right picture, within a few CPU seconds and some memory.

One of each kind in `make test`, all in `make test-all`.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.errors import ServiceError
from app.imaging.decoder_processes import DecoderServer
from app.imaging.picture import Picture
from app.pipeline import Upload
from app.settings import Settings
from tests.app.api.service import Service, png, serving
from tests.app.imaging.hostile import BASE, SIDE, make_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoder processes need Linux")

MAX_PIXELS = 64_000_000
MAX_CPU_S = 10.0
MAX_MEMORY_MIB = 1536
"""Memory for a file: one of 64 megapixels takes about so much, and these are no larger."""
FEW = (
    "exif-self-jpeg exif-orientations-png exif-thumbnail-strips-png exif-shared-webp exif-chain-avif exif-nest-tiff "
    "xmp-entities-png xmp-bombs-png icc-bombs-png icc-table-cmyk-jpeg png-million-chunks png-data-bomb "
    "png-short-16-2-1 jpeg-fill-scan jpeg-stuffing jpeg-100000-comment jpeg-empty-cmyk-baseline jpeg-scans-l "
    "tiff-values-everywhere big-tiff-shared-values tiff-directories tiff-large-directories "
    "tiff-tile-26000-26000-deflate tiff-rows tiff-overlapping-rows tiff-thin-lzw bmp-short-runs-4 webp-chunks "
    "avif-nested gif-frames"
).split()
AT_ONCE = 8


@pytest.fixture(scope="module")
def files() -> dict[str, Callable[[], bytes]]:
    return make_files()


@pytest.fixture(scope="module")
def server() -> Iterator[DecoderServer]:
    settings = Settings()
    server = DecoderServer(settings.decoder_mb << 20)
    yield server
    server.stop()


def upload(data: bytes) -> Upload:
    return Upload(io.BytesIO(data), len(data), "a.png")


def read_cpu_seconds(pid: int) -> float:
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def read_memory_mib(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def decode(server: DecoderServer, data: bytes) -> tuple[Picture | ServiceError, float, float]:
    """Measure and decode a file in a process of its own: return what comes of it, its CPU seconds and its MiB."""
    decoder = server.fork()
    try:
        before = read_memory_mib(decoder.pid, "VmRSS")
        found: Picture | ServiceError
        try:
            decoder.call("measure", upload(data), MAX_PIXELS, 120.0)
            found = decoder.call("decode", upload(data), MAX_PIXELS, 120.0)
        except ServiceError as error:
            found = error
        return found, read_cpu_seconds(decoder.pid), read_memory_mib(decoder.pid, "VmHWM") - before
    finally:
        server.end(decoder)


def is_right(name: str, picture: Picture) -> bool:
    """Whether a picture of the size of BASE is BASE, as far as its format keeps it; others have no more to show."""
    if (picture.width, picture.height) != (SIDE, SIDE) or "cmyk" in name:  # a profile decides what inks look like
        return True
    if name.startswith(("tiff-tile", "tiff-strip")):  # zeros, or BASE where they are not compressed
        return "plain" in name or not picture.pixels.any()
    meant = BASE if picture.channels == 3 else BASE[..., :1]
    return bool(np.abs(picture.pixels.astype(int) // (picture.maximum // 255) - meant).max() <= 32)


def check_all(server: DecoderServer, files: dict[str, Callable[[], bytes]]) -> None:
    wrong = []
    for name, make in files.items():
        data = make()
        try:
            found, seconds, memory = decode(server, data)
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
            continue
        outcome = found if isinstance(found, ServiceError) else f"{found.width}×{found.height}"
        told = f"{name} ({len(data)} bytes): {seconds:.1f} s, {memory:.0f} MiB, {outcome}"
        print(told)
        if seconds > MAX_CPU_S or memory > MAX_MEMORY_MIB or (isinstance(found, Picture) and not is_right(name, found)):
            wrong.append(told)
    assert not wrong, "\n".join(wrong)


def test_a_few_are_answered_within_the_limits(server: DecoderServer, files: dict[str, Callable[[], bytes]]) -> None:
    assert len(FEW) == len(set(FEW)) == 30
    check_all(server, {name: files[name] for name in FEW})


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_are_answered_within_the_limits(server: DecoderServer, files: dict[str, Callable[[], bytes]]) -> None:
    assert len(files) >= 120
    check_all(server, files)


def send(service: Service, data: bytes) -> httpx.Response:
    """Send a picture until it is answered with something else than `Try again later`."""
    for _ in range(600):
        answer = service.denoise(data, model="identity")
        if answer.status_code != 503:
            return answer
        time.sleep(min(float(answer.headers.get("Retry-After", 1)), 1.0))
    raise AssertionError("the service was never free")


def send_all(service: Service, files: dict[str, Callable[[], bytes]]) -> None:
    """Send files by eight at once; after each, a good picture is answered."""

    def one(entry: tuple[str, Callable[[], bytes]]) -> None:
        name, make = entry
        answer = send(service, make())
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, (name, answer.text[:300])
        assert send(service, png()).status_code == 200, name

    with ThreadPoolExecutor(AT_ONCE) as senders:
        list(senders.map(one, files.items()))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(decoders=2, request_timeout_s=600) as service:
        service.client.timeout = httpx.Timeout(600)
        yield service


@pytest.mark.integration
def test_a_few_at_once_leave_the_service_well(service: Service, files: dict[str, Callable[[], bytes]]) -> None:
    send_all(service, {name: files[name] for name in FEW[::4]})


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(3000)
def test_all_at_once_leave_the_service_well(service: Service, files: dict[str, Callable[[], bytes]]) -> None:
    send_all(service, files)
