"""Decoding in processes: the same pictures and errors, and whatever happens to a process, only its caller notices."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from app.errors import BrokenImage, ServiceError, ShuttingDown, TooManyPixels
from app.imaging import codec, decoder_worker
from app.imaging.decoder_pool import DecoderPool
from app.imaging.picture import Picture
from app.pipeline import Upload
from tests.app.api.service import wait_until
from tests.app.imaging.samples import XMP, exif, icc_rgb, noise, png, save_with_pillow, smooth

ROOT = Path(__file__).parents[3]
MANY = 10**8
SMALL = save_with_pillow(smooth(24, 40, 3), "png")
R = TypeVar("R")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoder processes need Linux")


def make_pool(size: int = 4, memory_mb: int = 512, timeout_s: float = 60.0) -> DecoderPool:
    return DecoderPool(size, memory_bytes=memory_mb << 20, timeout_s=timeout_s)


def upload(data: bytes) -> Upload:
    return Upload(io.BytesIO(data), len(data), "a.png")


async def measure(pool: DecoderPool, data: bytes, max_pixels: int = MANY) -> tuple[int, int]:
    return await pool.measure(upload(data), max_pixels=max_pixels, client="a")


async def decode(pool: DecoderPool, data: bytes, client: str = "a", max_pixels: int = MANY) -> Picture:
    return await pool.decode(upload(data), max_pixels=max_pixels, client=client)


def use(work: Callable[[DecoderPool], Awaitable[R]], pool: DecoderPool | None = None) -> R:
    """Return the result of `work` with a pool, whose processes are gone afterwards."""
    chosen = pool or make_pool(1)

    async def run() -> R:
        try:
            return await work(chosen)
        finally:
            await chosen.close()

    return asyncio.run(run())


async def until(happened: Callable[[], bool]) -> None:
    """Wait until something is so, while the event loop goes on."""
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.005)


async def all_started(pool: DecoderPool) -> list[int]:
    """Start the pool; return the ids of its processes once they all wait for a file."""
    pool.start()
    await until(lambda: len(pool.pids) == pool.size)
    return pool.pids


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Halt these processes: what they are asked for inside the block is under way, and does not end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if is_running(pid):
                os.kill(pid, signal.SIGCONT)


def is_running(pid: int) -> bool:
    """Tell whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def maps_tensorflow(pid: int) -> bool:
    """Tell whether a process has imported TensorFlow."""
    return "tensorflow" in Path(f"/proc/{pid}/maps").read_text()


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def own_memory(pid: int) -> int:
    """Return the resident memory of a process without that of files, in bytes."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def same(one: Picture, other: Picture) -> bool:
    """Tell whether two pictures are the same, with all that is said of them."""
    arrays = [(one.pixels, other.pixels)]
    if one.alpha is not None and other.alpha is not None:
        arrays.append((one.alpha, other.alpha))
    equal = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)
    plain = [replace(picture, pixels=np.zeros(0), alpha=None) for picture in (one, other)]
    fields = [{name: getattr(picture, name) for name in ("metadata", "format", "warnings")} for picture in plain]
    return equal and (one.alpha is None) == (other.alpha is None) and fields[0] == fields[1]


BLOCKS = {"exif": b"Exif\0\0" + exif(6), "icc_profile": icc_rgb(((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)))}
PICTURES = {
    "jpeg": save_with_pillow(smooth(50, 40, 3), "jpeg"),
    "jpeg, turned, with all metadata": save_with_pillow(smooth(50, 40, 3), "jpeg", xmp=XMP, **BLOCKS),
    "gray jpeg": save_with_pillow(smooth(50, 40, 1), "jpeg"),
    "png": SMALL,
    "16-bit png with alpha": png(noise(30, 20, 4, np.uint16), 6, 16),
    "gray tiff with alpha": save_with_pillow(smooth(20, 30, 2), "tiff"),
    "webp": save_with_pillow(smooth(20, 30, 4), "webp"),
    "avif": save_with_pillow(smooth(20, 30, 3), "avif"),
    "bmp": save_with_pillow(smooth(20, 30, 3), "bmp"),
}
REFUSED = {"not a picture": b"%PDF, and text", "cut off": PICTURES["jpeg"][:400], "nothing": b""}


def test_pictures_and_errors_are_those_of_the_codec() -> None:
    async def compare(pool: DecoderPool) -> None:
        for name, data in PICTURES.items():
            picture = await decode(pool, data)
            assert same(picture, codec.decode(data, max_pixels=MANY)), name
            assert await measure(pool, data) == codec.measure(data, max_pixels=MANY), name
            with pytest.raises(TooManyPixels) as refused:
                await decode(pool, data, max_pixels=100)
            with pytest.raises(TooManyPixels) as expected:
                codec.decode(data, max_pixels=100)
            assert vars(refused.value) == vars(expected.value), name
        for name, data in REFUSED.items():
            with pytest.raises(ServiceError) as error:
                await decode(pool, data)
            with pytest.raises(type(error.value)) as wanted:
                codec.decode(data, max_pixels=MANY)
            assert vars(error.value) == vars(wanted.value), name
        assert not pool.failures

    use(compare)


def test_libraries_write_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """In the service itself, libpng writes "libpng error: IDAT: …" for such a file."""
    damaged = bytearray(png(noise(64, 64, 3).astype(np.uint16) * 257, color=2, depth=16))
    damaged[-40] ^= 0xFF

    async def work(pool: DecoderPool) -> None:
        with pytest.raises(BrokenImage):
            await decode(pool, bytes(damaged))

    use(work)
    assert capfd.readouterr().err == ""


def test_a_file_on_disk_is_read_there_and_stays_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(SMALL)

    async def read(pool: DecoderPool) -> None:
        with path.open("rb") as file:
            file.seek(7)
            source = Upload(file, len(SMALL), "a.png")
            assert source.descriptor is not None
            picture = await pool.decode(source, max_pixels=MANY, client="a")
            assert same(picture, codec.decode(SMALL, max_pixels=MANY))
            assert file.tell() == 7

    use(read)


def test_pictures_outlive_the_pool() -> None:
    picture = use(lambda pool: decode(pool, SMALL))
    assert picture.pixels.flags.writeable
    assert same(picture, codec.decode(SMALL, max_pixels=MANY))


def test_decoder_processes_have_no_tensorflow_and_one_thread() -> None:
    async def look(pool: DecoderPool) -> None:
        await decode(pool, PICTURES["16-bit png with alpha"])
        for pid in (pool.server_pid, *pool.pids):
            assert pid is not None
            assert not maps_tensorflow(pid)
            assert threads(pid) == 1

    use(look)


def test_of_fifty_requests_only_those_fail_whose_process_is_killed_or_segfaults() -> None:
    data = {number: save_with_pillow(noise(60 + number, 40, 3), "png") for number in range(50)}

    async def fifty(pool: DecoderPool) -> None:
        pids = await all_started(pool)
        with stopped(pids):
            calls = [asyncio.create_task(decode(pool, one, f"client {at % 10}")) for at, one in data.items()]
            await until(lambda: pool.queue.used == 4)
            await until(lambda: pool.busy_pids == set(pids))
            os.kill(pids[0], signal.SIGKILL)
            os.kill(pids[1], signal.SIGSEGV)
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = {type(result) for result in results if isinstance(result, BaseException)}
        assert failed == {TooManyPixels, BrokenImage}
        good = {at: result for at, result in enumerate(results) if isinstance(result, Picture)}
        assert len(good) == 48
        for at, picture in good.items():
            assert same(picture, codec.decode(data[at], max_pixels=MANY))
        assert pool.failures == {"killed": 1, "crash": 1}
        assert len(set(pool.pids) & set(pids)) == 2
        assert not any(map(is_running, pids[:2]))

    use(fifty, make_pool(4))


def test_a_process_that_ended_while_it_was_idle_costs_nobody_anything() -> None:
    async def replaced(pool: DecoderPool) -> None:
        pids = await all_started(pool)
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: not is_running(pids[0]))
        assert (await decode(pool, SMALL)).width == 40
        assert not pool.failures
        server = pool.server_pid
        assert server is not None
        os.kill(server, signal.SIGKILL)  # the processes that it has forked end with it
        await until(lambda: not any(map(is_running, pool.pids)))
        assert (await decode(pool, SMALL)).width == 40
        assert pool.server_pid != server

    use(replaced)


def test_a_picture_that_takes_too_much_memory_is_refused_and_the_next_one_decoded() -> None:
    large = save_with_pillow(np.zeros((6000, 6000, 3), np.uint8), "png")

    async def refused(pool: DecoderPool) -> None:
        assert await measure(pool, large) == (6000, 6000)
        for _ in range(2):
            with pytest.raises(TooManyPixels, match="more memory") as caught:
                await decode(pool, large)
            assert caught.value.field == "image"
            assert (await decode(pool, SMALL)).width == 40
        assert not pool.failures  # it is an error like any other: the process goes on

    use(refused, make_pool(1, memory_mb=64))


def test_a_picture_that_takes_too_long_is_refused_and_its_process_replaced() -> None:
    async def late(pool: DecoderPool) -> None:
        pids = await all_started(pool)
        with stopped(pids), pytest.raises(BrokenImage, match=r"within 0\.2 seconds"):
            await decode(pool, SMALL)
        assert not is_running(pids[0])
        assert pool.failures == {"timeout": 1}

    use(late, make_pool(1, timeout_s=0.2))


def test_a_cancelled_call_ends_its_process_at_once() -> None:
    async def cancelled(pool: DecoderPool) -> None:
        pids = await all_started(pool)
        with stopped(pids):
            call = asyncio.create_task(decode(pool, SMALL))
            await until(lambda: pool.busy_pids == set(pids))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert not is_running(pids[0])
        assert not pool.queue.used
        assert not pool.failures
        assert (await decode(pool, SMALL)).width == 40

    use(cancelled)


def test_a_stop_ends_all_processes_and_those_who_wait_are_told() -> None:
    async def stop() -> None:
        pool = make_pool(2)
        pids = await all_started(pool)
        server = pool.server_pid
        with stopped(pids):
            calls = [asyncio.create_task(decode(pool, SMALL, f"client {number}")) for number in range(5)]
            await until(lambda: pool.busy_pids == set(pids))
            await pool.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {ShuttingDown}
        assert not any(is_running(pid) for pid in (server, *pids) if pid is not None)

    asyncio.run(stop())


def test_processes_end_when_the_service_dies() -> None:
    program = """
        import os, signal, time
        from app.imaging.decoder_pool import DecoderPool
        pool = DecoderPool(2, memory_bytes=2**29, timeout_s=60)
        pool.start()
        while len(pool.pids) < 2:
            time.sleep(0.01)
        os.kill(pool.pids[0], signal.SIGSTOP)
        print(pool.server_pid, *pool.pids, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 3
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_process_keeps_no_memory_of_a_large_picture_and_is_replaced_after_many_files() -> None:
    async def many(pool: DecoderPool) -> None:
        [pid] = await all_started(pool)
        await decode(pool, SMALL)
        before = own_memory(pid)
        large = png(noise(1500, 2000, 3, np.uint16), 2, 16)
        assert (await decode(pool, large)).pixels.nbytes == 18_000_000
        await measure(pool, SMALL)  # it is done with the large one
        assert own_memory(pid) - before < 8_000_000
        for _ in range(decoder_worker.MAX_CALLS - 3):
            await measure(pool, SMALL)
        assert not is_running(pid)
        assert (await decode(pool, SMALL)).width == 40
        assert not pool.failures

    use(many)
