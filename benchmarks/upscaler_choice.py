"""Counts how often `model=auto` of /superres takes the right model: `python -m benchmarks.upscaler_choice`.

Kodak24 and Set14 of the data pack `photos`, in eight versions each. Clean pictures and JPEG of quality 95 are for
`photo`; noise of σ 5, 10 and 25 and JPEG of quality 75, 60 and 40 are for `real`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.local import LocalEngine
from app.engine.protocol import RequestContext
from app.engine.registry import Registry
from app.engine.tensorflow_runtime import Runtime
from app.imaging.picture import Picture
from app.settings import Settings
from app.tasks.upscaler_choice import needs_cleaning
from training.data.packs import Packs

Pixels = NDArray[np.uint8]
SETS = ("Kodak24", "Set14")


def noisy(pixels: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def encoded(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


VERSIONS: dict[str, tuple[Callable[[Pixels], Pixels], bool]] = {
    "clean": (lambda pixels: pixels, False),
    "JPEG 95": (partial(encoded, quality=95), False),
    **{f"σ {sigma}": (partial(noisy, sigma=sigma), True) for sigma in (5, 10, 25)},
    **{f"JPEG {quality}": (partial(encoded, quality=quality), True) for quality in (75, 60, 40)},
}
"""How each version is made, and whether it needs cleaning."""


async def count(engine: LocalEngine, packs: Packs) -> tuple[int, int]:
    """Print a row for each set and version; return how many choices were right, and how many there were."""
    right = total = 0
    for folder in SETS:
        pictures = dict(zip(packs.files(f"photos/test/{folder}"), packs.pictures(f"photos/test/{folder}"), strict=True))
        for version, (make, expected) in VERSIONS.items():
            wrong = [
                file.stem
                for file, pixels in pictures.items()
                if await needs_cleaning(Picture(make(pixels)), engine, RequestContext("bench")) != expected
            ]
            right, total = right + len(pictures) - len(wrong), total + len(pictures)
            print(
                f"| {folder} | {version} | {len(pictures) - len(wrong)}/{len(pictures)} | {', '.join(wrong)} |",
                flush=True,
            )
    return right, total


async def main() -> None:
    """Print the table."""
    engine = LocalEngine(Registry(Settings().models_dir, Runtime()))
    try:
        print("| set | version | right | wrong |\n|---|---|---|---|")
        right, total = await count(engine, Packs())
        print(f"\nright: {right}/{total}, {right / total:.1%}")
    finally:
        await engine.close(60)


if __name__ == "__main__":
    asyncio.run(main())
