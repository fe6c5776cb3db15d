"""Measures inpainting: `python -m benchmarks.inpaint [classical | wide URL | width URL]`.

* `classical` (the default): PSNR inside the holes of the methods that need no model, with the same holes as `training
  evaluate inpaint_photo`.
* `wide`: how boxes and silhouettes of 64 to 200 pixels look, filled by the service at URL: feature distance and detail.
  `--shift-map PYTHON` adds the shift map of opencv-contrib, run by an interpreter that has it (it cannot be installed
  beside OpenCV); `--module FILE` a Python file with `complete(picture, mask, guide)`, uint8 BGR.
* `width`: the same for strokes of several widths, to choose from which width on `auto` copies.

Kodak24 of the data pack `photos`, silhouettes of the pack `person`. `wide` and `width` need the weights of VGG19.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from training.data.packs import MissingPack, Packs
from training.evaluation.inpainting import CLASSICAL, Fill, silhouettes, tables
from training.evaluation.service import Service, ServiceProblem
from training.evaluation.wide_holes import wide_tables, width_tables

SHIFT_MAP = """
import cv2, sys
picture, mask = cv2.imread(sys.argv[1]), cv2.imread(sys.argv[2], 0)
lab = cv2.cvtColor(picture, cv2.COLOR_BGR2Lab)
filled = lab.copy()
cv2.xphoto.inpaint(lab, 255 - mask, filled, cv2.xphoto.INPAINT_SHIFTMAP)
cv2.imwrite(sys.argv[3], cv2.cvtColor(filled, cv2.COLOR_Lab2BGR))
"""


def fill_by_shift_map(python: str, picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return `picture` filled by the shift map (He and Sun 2012) of opencv-contrib, in another process."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("picture.png", "mask.png", "filled.png")]
        cv2.imwrite(files[0], np.ascontiguousarray(picture[..., ::-1]))
        cv2.imwrite(files[1], missing.astype(np.uint8) * 255)
        subprocess.run([python, "-c", SHIFT_MAP, *files], check=True)
        filled = cv2.imread(files[2])
    assert filled is not None
    return np.where(missing[..., None], filled[..., ::-1], picture)


def fill_by_module(file: str, service: Service, picture: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return `picture` filled by `complete` of a Python file, which gets the network's result as a guide."""
    described = importlib.util.spec_from_file_location("completion", file)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    guide = service.inpaint(picture, missing, "neural")
    sent = (np.ascontiguousarray(part[..., ::-1]) for part in (picture, guide))
    bgr, guide = sent
    return np.asarray(module.complete(bgr, missing.astype(np.uint8), guide))[..., ::-1]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", nargs="?", choices=["classical", "wide", "width"], default="classical")
    arguments.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="address of the service")
    arguments.add_argument("--every", type=int, default=1, help="use every so many pictures (default: 1)")
    arguments.add_argument("--shift-map", metavar="PYTHON", help="interpreter with opencv-contrib-python-headless")
    arguments.add_argument("--module", metavar="FILE", help="Python file with another method")
    options = arguments.parse_args()
    packs, service, command = Packs(), Service(options.url), f"python -m benchmarks.inpaint {options.what}"
    if options.every > 1:
        command += f" --every {options.every}"
    served: dict[str, Fill] = {
        "inpaint/photo": partial(service.inpaint, method="neural"),
        "exemplar": partial(service.inpaint, method="exemplar"),
    }
    try:
        if options.what == "width":
            found = width_tables(served, packs, command, every=options.every)
        elif options.what == "wide":
            methods: dict[str, Fill] = {"Telea": CLASSICAL["Telea"], **served}
            if options.shift_map:
                methods["shift map"] = partial(fill_by_shift_map, options.shift_map)
            if options.module:
                methods[Path(options.module).name] = partial(fill_by_module, options.module, service)
            found = wide_tables(methods, silhouettes(packs, "test"), packs, command, options.every)
        else:
            found = tables(CLASSICAL, silhouettes(packs, "test"), packs, "python -m benchmarks.inpaint")
        for table in found:
            print(table.text() + "\n")
    except (MissingPack, ServiceProblem) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
