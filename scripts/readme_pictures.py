"""Makes the README's pictures.

`python -m scripts.readme_pictures inputs` writes the inputs of the examples in README and docs, and clean originals;
`python -m scripts.readme_pictures results http://127.0.0.1:8000` sends the inputs to a running service and writes the
before-and-after pictures, the cutout and the styles, and the README's section with captions and figures. Needs
scikit-image (`make setup`).

Astronaut, rocket and galaxies: NASA, public domain. Coffee: Rachel Michetti, CC0. Chelsea the cat: Stéfan van der Walt,
CC0. All as scikit-image carries them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import cv2
import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageOps

from scripts import removals

FOLDER = Path(__file__).resolve().parent.parent / "docs/images"
GALAXIES = (slice(420, 620), slice(330, 580))
"""The part of Hubble's deep field that the README shows at twice its size."""
CUP_BACKGROUND = "#f3ead8"
Pixels = NDArray[np.uint8]
SHOWN_STYLES = ("impression-sunrise", "starry-night", "great-wave", "the-scream")
README = FOLDER.parent.parent / "README.md"
BEGIN, END = "<!-- pictures: made by scripts/readme_pictures.py -->", "<!-- end of pictures -->"


def add_noise(clean: Pixels, sigma: float, seed: int) -> Pixels:
    """Return `clean` with Gaussian noise of `sigma` (0..255), clipped and rounded to 8 bit."""
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def make_pictures() -> dict[str, tuple[Pixels, Pixels]]:
    """Return (before, clean) by name, uint8 RGB."""
    astronaut = skimage.data.astronaut()[0:256, 96:352]
    chelsea = skimage.data.chelsea()[20:276, 80:336]
    coffee = skimage.data.coffee()[60:316, 160:416]
    rocket = skimage.data.rocket()[150:406, 190:446]
    small = np.asarray(Image.fromarray(coffee).resize((64, 64), Image.Resampling.BICUBIC))
    return {
        "astronaut": (add_noise(astronaut, 35, 1), astronaut),
        "chelsea": (add_noise(chelsea, 20, 2), chelsea),
        "coffee": (small, coffee),
        "scratched": (np.where(draw_scratches()[..., None], np.uint8(255), rocket), rocket),
    }


def draw_scratches() -> NDArray[np.bool_]:
    """Return a mask of scratches and a word, bool (256, 256)."""
    drawn = np.zeros((256, 256), np.uint8)
    random = np.random.default_rng(3)
    for _ in range(7):
        ends = random.integers(0, 256, (2, 2))
        bend = ends.mean(axis=0) + random.normal(0, 20, 2)
        points = np.array([ends[0], bend, ends[1]]).round().astype(np.int32)
        cv2.polylines(drawn, [points], False, 255, int(random.integers(1, 4)))
    cv2.putText(drawn, "HELLO", (60, 235), cv2.FONT_HERSHEY_SIMPLEX, 1.4, 255, 3)
    return drawn > 0


def draw_digit() -> tuple[Pixels, NDArray[np.bool_]]:
    """Return a drawn digit two, uint8 (28, 28), and a hole in it, bool (28, 28)."""
    strokes = np.array([[8, 10], [10, 6], [15, 5], [19, 8], [18, 12], [13, 17], [8, 22], [20, 21]], np.int32)
    large = np.zeros((28 * 8, 28 * 8), np.uint8)
    cv2.polylines(large, [strokes * 8], False, 255, 20, cv2.LINE_AA)
    hole = np.zeros((28, 28), bool)
    hole[9:19, 12:22] = True
    return np.asarray(cv2.resize(large, (28, 28), interpolation=cv2.INTER_AREA)), hole


def describe(purpose: str, caption: str, description: str, file: str) -> str:
    """Return the README's paragraph and picture, as Markdown."""
    return f"**{purpose}**: {caption}\n\n![{description}](docs/images/{file})\n"


def draw_cutout(url: str) -> str:
    """Save a person and a cup, each cut out and put before something else; return the README's lines."""
    portrait = (FOLDER / "portrait.jpg").read_bytes()
    cup = _png(skimage.data.coffee()[:, 100:500])
    placed = _post(url + "/cutout", portrait, {}, background_image=_png(skimage.data.rocket()[:, 106:533]))
    alone = _post(url + "/cutout", cup, {"background": CUP_BACKGROUND})
    row = [np.asarray(ImageOps.fit(Image.open(io.BytesIO(one)).convert("RGB"), (400, 400))) for one in
           (portrait, placed, cup, alone)]  # fmt: skip
    gap = np.full((400, 8, 3), 255, np.uint8)
    whole = np.concatenate([part for one in row for part in (one, gap)][:-1], axis=1)
    Image.fromarray(whole).save(FOLDER / "cutout.jpg", quality=88, optimize=True)
    description = "A person before a rocket, and a cup without its table"
    return describe("Remove the background", "`/cutout`, whatever the main object is", description, "cutout.jpg")


def draw_denoising(url: str) -> str:
    """Save a part of Hubble's deep field, whose noise is the camera's own, before and after; return the README's lines.

    The whole photograph is denoised, so that the estimate is that of users.
    """
    before = skimage.data.hubble_deep_field()
    after = np.asarray(Image.open(io.BytesIO(_post(url + "/denoise", _png(before), {}))).convert("RGB"))
    left, right = (np.kron(part[GALAXIES], np.ones((2, 2, 1), np.uint8)) for part in (before, after))
    gap = np.full((len(left), 8, 3), 255, np.uint8)
    shown = np.concatenate([left, gap, right], axis=1)
    Image.fromarray(shown).save(FOLDER / "galaxies.jpg", quality=90, optimize=True)
    description = "Distant galaxies in a dark sky, as the telescope's camera took them, and denoised"
    return describe("Remove noise", "`/denoise`, a photograph of the Hubble telescope, ×2", description, "galaxies.jpg")


def draw_enlargement(url: str) -> str:
    """Save a small JPEG four times as large, bicubically and by the service; return the README's lines."""
    sent = (FOLDER / "small.jpg").read_bytes()
    after = Image.open(io.BytesIO(_post(url + "/superres", sent, {"scale": "4"}))).convert("RGB")
    before = Image.open(io.BytesIO(sent)).resize(after.size, Image.Resampling.BICUBIC)
    left, right = np.asarray(before), np.asarray(after)
    gap = np.full((len(left), 8, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([left, gap, right], axis=1)).save(FOLDER / "enlarged.jpg", quality=88, optimize=True)
    caption = "a small JPEG of quality 60, bicubically and by `/superres`"
    return describe("Upscale ×4", caption, "Portrait in front of a flag, with blocks and without", "enlarged.jpg")


def draw_removal(url: str) -> str:
    """Save the rocket with and without a tower beside it; return the README's lines."""
    removal = removals.REMOVALS[1]
    before = removal.make()
    after = removals.fill(url, before, removal.mask(), "auto")
    left, right = (removals.show(pixels, removal.corner) for pixels in (before, after))
    gap = np.full((len(left), 8, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([left, gap, right], axis=1)).save(FOLDER / "removed.jpg", quality=88, optimize=True)
    return describe("Erase objects", "`/inpaint`", "Evening sky with a tower, and without it", "removed.jpg")


def draw_inpainting_methods(url: str) -> None:
    """Save the results of each inpainting method for scratches, a line and large holes, for docs/comparison.md."""
    shown = make_pictures()
    line, large = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
    cv2.polylines(line, [np.array([[0, 60], [90, 120], [170, 100], [255, 190]])], False, 255, 7)
    for left, top, right, bottom in ((30, 40, 70, 80), (120, 90, 210, 190)):
        large[top:bottom, left:right] = 255
    damaged = {
        "scratched": draw_scratches(),
        "chelsea": line > 0,
        "coffee": large > 0,
    }
    rows = []
    for name, missing in damaged.items():
        clean = shown[name][1][:256, :256]
        before = np.where(missing[..., None], np.uint8(255), clean)
        row = [before]
        for method in ("telea", "ns", "biharmonic", "neural", "exemplar"):
            answer = _post(url + "/inpaint", _png(before), {"method": method}, _png(missing))
            row.append(np.asarray(Image.open(io.BytesIO(answer)).convert("RGB")))
        rows.append(np.concatenate([part for one in row for part in (one, np.full((256, 6, 3), 255, np.uint8))], 1))
    grid = np.concatenate([part for row in rows for part in (row, np.full((6, row.shape[1], 3), 255, np.uint8))])
    Image.fromarray(grid[:-6, :-6]).save(FOLDER / "methods.jpg", quality=88, optimize=True)


def draw_styles(url: str) -> str:
    """Save photographs in some styles, and all styles for docs/comparison.md; return the README's lines."""
    photographs = [
        skimage.data.coffee()[:400, 100:500],
        skimage.data.chelsea()[:, 90:390],
        skimage.data.rocket()[:, 110:537],
    ]
    names = [style["name"] for style in httpx.get(url + "/styles", timeout=60).json()["styles"]]
    painted = {
        name: [_stylize(url, _square(photograph), {"style": name}) for photograph in photographs] for name in names
    }
    shown = [[_square(photograph) for photograph in photographs], *(painted[name] for name in SHOWN_STYLES)]
    _save_grid([list(row) for row in zip(*shown, strict=True)], "styles.jpg")
    cats = [painted[name][1] for name in names]
    _save_grid([cats[begin : begin + 8] for begin in range(0, len(cats), 8)], "presets.jpg", side=160)
    caption = f"`/stylize` with {', '.join(f'`{name}`' for name in SHOWN_STYLES)}"
    return describe("Apply a style", caption, "Three photographs in four styles", "styles.jpg")


def _stylize(url: str, photograph: Pixels, fields: dict[str, str]) -> Pixels:
    answer = _post(url + "/stylize", _png(photograph), fields)
    return np.asarray(Image.open(io.BytesIO(answer)).convert("RGB"))


def _square(photograph: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(photograph).resize((400, 400), Image.Resampling.BICUBIC))


def _save_grid(rows: list[list[Pixels]], name: str, side: int = 240) -> None:
    small = [
        [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.LANCZOS)) for one in row] for row in rows
    ]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in small])).save(
        FOLDER / name, quality=88, optimize=True
    )


def draw_digit_row(url: str) -> None:
    """Save the digit with a hole, filled, and original, for docs/comparison.md."""
    drawn, hole = draw_digit()
    answer = _post(url + "/inpaint", (FOLDER / "digit.png").read_bytes(), {"method": "dcgan"}, _png(hole))
    found = np.asarray(Image.open(io.BytesIO(answer)).convert("L"))
    row = np.concatenate([np.where(hole, np.uint8(128), drawn), found, drawn], axis=1)
    Image.fromarray(np.kron(row, np.ones((6, 6), np.uint8))).save(FOLDER / "digit.jpg", quality=90, optimize=True)


def _png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def _post(url: str, picture: bytes, fields: dict[str, str], mask: bytes | None = None, **others: bytes) -> bytes:
    given = {"image": picture, **others} | ({} if mask is None else {"mask": mask})
    files = {name: (name, data) for name, data in given.items()}
    answer = httpx.post(url, files=files, data=fields, timeout=300)
    answer.raise_for_status()
    return answer.content


def write_inputs() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (before, clean) in make_pictures().items():
        Image.fromarray(before).save(FOLDER / f"{name}-before.png", optimize=True)
        Image.fromarray(clean).save(FOLDER / f"{name}-clean.png", optimize=True)
    Image.fromarray(draw_scratches()).save(FOLDER / "scratched-mask.png", optimize=True)
    drawn, hole = draw_digit()
    Image.fromarray(np.where(hole, np.uint8(0), drawn)).save(FOLDER / "digit.png")
    Image.fromarray(hole).save(FOLDER / "digit-mask.png")
    portrait = Image.fromarray(skimage.data.astronaut())
    portrait.save(FOLDER / "portrait.jpg", quality=92, optimize=True)
    small = portrait.crop((96, 0, 416, 320)).resize((96, 96), Image.Resampling.BICUBIC)
    small.save(FOLDER / "small.jpg", quality=60)


def write_results(url: str) -> None:
    lines = [draw_denoising(url), draw_enlargement(url)]
    draw_digit_row(url)
    lines.append(draw_removal(url))
    lines.append(draw_cutout(url))
    lines.append(draw_styles(url))
    draw_inpainting_methods(url)
    head, _, rest = README.read_text("utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(head + "\n".join([BEGIN, "", *lines, END]) + tail, "utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["inputs", "results"], help="what to write")
    arguments.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="address of the service")
    options = arguments.parse_args()
    if options.what == "inputs":
        write_inputs()
        return
    try:
        write_results(options.url)
    except httpx.HTTPError as error:
        raise SystemExit(f"no service at {options.url}: {error}; start it with `make serve`") from None


if __name__ == "__main__":
    main()
