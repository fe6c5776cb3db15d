"""Make the README's pictures.

`python -m scripts.readme_pictures inputs` writes what the README's curl lines send and what they should come near to;
`python -m scripts.readme_pictures results http://127.0.0.1:8000` sends them to a running service and writes the
before-and-after pictures, and the README's table of them with the figures. Needs scikit-image (`make setup`).

Astronaut: NASA, public domain. Coffee: Rachel Michetti, CC0. Chelsea the cat: Stéfan van der Walt, CC0. All three as
scikit-image carries them.
"""

from __future__ import annotations

import argparse
import io
import math
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "docs/images"
Pixels = NDArray[np.uint8]
README = FOLDER.parent.parent / "README.md"
BEGIN, END = "<!-- pictures: made by scripts/readme_pictures.py -->", "<!-- end of pictures -->"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the service is asked for one picture, and how the README says it."""

    path: str
    fields: dict[str, str]
    subject: str
    caption: str


ASKED = {
    "astronaut": Asked("/denoise", {}, "Astronaut, noisy and denoised", "`/denoise`, noise of σ = 35"),
    "chelsea": Asked("/denoise", {}, "Cat, noisy and denoised", "`/denoise`, noise of σ = 20"),
    "coffee": Asked("/superres", {"scale": "4"}, "Coffee, enlarged", "`/superres` ×4, beside bicubic enlargement"),
}


def noisy(clean: Pixels, sigma: float, seed: int) -> Pixels:
    """Return `clean` with Gaussian noise of `sigma` (0..255), clipped and rounded to 8 bit."""
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def pictures() -> dict[str, tuple[Pixels, Pixels]]:
    """Return (before, clean) by name, uint8 RGB."""
    astronaut = skimage.data.astronaut()[0:256, 96:352]
    chelsea = skimage.data.chelsea()[20:276, 80:336]
    coffee = skimage.data.coffee()[60:316, 160:416]
    small = np.asarray(Image.fromarray(coffee).resize((64, 64), Image.Resampling.BICUBIC))
    return {
        "astronaut": (noisy(astronaut, 35, 1), astronaut),
        "chelsea": (noisy(chelsea, 20, 2), chelsea),
        "coffee": (small, coffee),
    }


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB of two uint8 pictures of one shape."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / float(error))


def enlarged(pixels: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def write_inputs() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (before, clean) in pictures().items():
        Image.fromarray(before).save(FOLDER / f"{name}-before.png", optimize=True)
        Image.fromarray(clean).save(FOLDER / f"{name}-clean.png", optimize=True)


def write_results(url: str) -> None:
    lines = ["| before, after | |", "|---|---|"]
    for name, (_, clean) in pictures().items():
        asked = ASKED[name]
        sent = (FOLDER / f"{name}-before.png").read_bytes()
        answer = httpx.post(url + asked.path, files={"image": (f"{name}.png", sent)}, data=asked.fields, timeout=120)
        answer.raise_for_status()
        after = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        before = np.asarray(Image.open(io.BytesIO(sent)))
        if before.shape != after.shape:
            # Enlargement is compared with what a viewer would do.
            before = enlarged(before, after.shape[0])
        gap = np.full((after.shape[0], 8, 3), 255, np.uint8)
        side_by_side = Image.fromarray(np.concatenate([before, gap, after], axis=1))
        side_by_side.save(FOLDER / f"{name}.jpg", quality=88, optimize=True)
        gain = f"{psnr(before, clean):.1f} dB before, {psnr(after, clean):.1f} dB after"
        print(f"{name}: {gain} ({answer.headers['X-Model']})")
        lines.append(f"| ![{asked.subject}](docs/images/{name}.jpg) | {asked.caption}: {gain} |")
    head, _, rest = README.read_text("utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(head + "\n".join([BEGIN, *lines, END]) + tail, "utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["inputs", "results"])
    arguments.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    wish = arguments.parse_args()
    if wish.what == "inputs":
        write_inputs()
    else:
        write_results(wish.url)


if __name__ == "__main__":
    main()
