"""Compares decoding in processes with decoding in this process.

`python -m benchmarks.decoders [--rounds 21] [--megapixels 12]` (Linux)

Both measure and decode the same files, alternating, so that other load on the machine affects both: a JPEG on disk, and
a thumbnail in memory. Goals: a JPEG of 12 megapixels takes at most 1.2 times as long, a thumbnail at most 5 ms more.
Medians are reported, and of the differences of each pair. The start is the time until the first thumbnail is decoded.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import tempfile
import time

from app.imaging.decoder_pool import DecoderPool
from app.pipeline import Decoders, InProcessDecoders, Upload
from app.settings import Settings
from benchmarks import results
from benchmarks.memory import photograph

MAX_PIXELS = 10**9
THUMBNAIL_MEGAPIXELS = 0.03


async def time_once(decoders: Decoders, upload: Upload) -> float:
    """Return the seconds for one file."""
    begun = time.perf_counter()
    width, height = await decoders.measure(upload, max_pixels=MAX_PIXELS, client="bench")
    await decoders.decode(upload, max_pixels=MAX_PIXELS, client="bench", pixels=width * height)
    return time.perf_counter() - begun


async def compare(pool: DecoderPool, upload: Upload, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds in this process and in the pool, of each pair."""
    local = InProcessDecoders()
    pairs = []
    for number in range(rounds + 2):
        if number % 2:  # each is first in half of the pairs
            pooled = await time_once(pool, upload)
            pairs.append((await time_once(local, upload), pooled))
        else:
            pairs.append((await time_once(local, upload), await time_once(pool, upload)))
    kept = pairs[2:]  # the first ones warm up
    return [one for one, _ in kept], [one for _, one in kept]


async def measure(options: argparse.Namespace) -> dict[str, float | int | str]:
    """Return all figures."""
    settings = Settings()
    large, small = photograph(options.megapixels), photograph(THUMBNAIL_MEGAPIXELS)
    thumbnail = Upload(io.BytesIO(small), len(small), "small.jpg")
    pool = DecoderPool(
        settings.decoders or 1, memory_bytes=settings.decoder_mb * 2**20, timeout_s=settings.decoder_timeout_s
    )
    begun = time.perf_counter()
    pool.start()
    await time_once(pool, thumbnail)
    start = time.perf_counter() - begun
    with tempfile.TemporaryFile() as file:
        file.write(large)
        alone, pooled = await compare(pool, Upload(file, len(large), "large.jpg"), options.rounds)
    small_alone, small_pooled = await compare(pool, thumbnail, options.rounds * 10)
    await pool.close()
    extra = statistics.median(b - a for a, b in zip(small_alone, small_pooled, strict=True))
    return {
        "megapixels": options.megapixels,
        "JPEG, in this process (ms)": statistics.median(alone) * 1000,
        "JPEG, in a decoder (ms)": statistics.median(pooled) * 1000,
        "JPEG, ratio": statistics.median(b / a for a, b in zip(alone, pooled, strict=True)),
        "thumbnail, in this process (ms)": statistics.median(small_alone) * 1000,
        "thumbnail, in a decoder (ms)": statistics.median(small_pooled) * 1000,
        "thumbnail, more (ms)": extra * 1000,
        "start (s)": start,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=21, help="pairs for the JPEG; ten times as many thumbnails")
    arguments.add_argument("--megapixels", type=float, default=12.0, help="size of the JPEG (default: 12)")
    arguments.add_argument("--no-record", action="store_true", help="print the figures and write no file")
    options = arguments.parse_args()
    results.report("decoders", asyncio.run(measure(options)), record=not options.no_record)


if __name__ == "__main__":
    main()
