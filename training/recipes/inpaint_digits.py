"""`inpaint/digits`: digits with a hole, filled by searching a DCGAN for the digit that agrees with the rest.

    python -m training train inpaint_digits                 # trains dcgan_digits, whose results it uses
    python -m training evaluate inpaint_digits

Semantic inpainting (Yeh et al. 2017, arXiv 1607.07539). Target: 4 dB in the hole over its mean fill, on digits that
were not trained with; `docs/training/results.md` has the figures it reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from training.architectures import dcgan, latent_search
from training.data.digits import test_digits
from training.data.packs import Packs
from training.evaluation.inpainting import CLASSICAL, Fill
from training.evaluation.metrics import psnr
from training.evaluation.service import Service
from training.evaluation.tables import ResultTable, report_progress
from training.recipe import Part, Recipe
from training.recipes.dcgan_digits import DigitsGan

SIZE, HOLE = 28, 10
DIGITS = 200


class InpaintDigits(Recipe):
    title = "Digits, searched for"
    description = "Fills holes in handwritten digits with a DCGAN, so that they match the rest (`method=dcgan`)."
    architecture = "Search by Adam over the z of a DCGAN from sixteen starts, ten steps a call; Poisson blending"
    packs = ("digits",)
    geometry = {"kind": "fixed", "valid_sizes": [(SIZE, SIZE)]}
    inputs = {
        "state": {"per": "sample", "range": None, "meaning": "zeros at first, then what the call before gave"},
        "step": {"per": "sample", "range": None, "meaning": "zero at first, then what the call before gave"},
    }
    defaults = {"calls": latent_search.CALLS}
    trained_as = "dcgan_digits"

    def build_parts(self) -> dict[str, Part]:
        return {"dcgan": DigitsGan()}

    def served_networks(self, networks: Mapping[str, keras.Model], packs: Packs) -> dict[str, keras.Model]:
        """Return the search in the trained generator."""
        return {"search": latent_search.build(*dcgan.halves(networks["dcgan"]))}

    def evaluate(self, networks: Mapping[str, Any], packs: Packs) -> list[ResultTable]:
        """Return what the classical methods and the search reach."""
        digits, missing = load_samples(packs)
        every = range(0, len(digits), 50)
        found = np.concatenate([run(networks["search"], digits[i : i + 50], missing[i : i + 50]) for i in every])
        done = iter(found)
        methods: dict[str, Fill] = {**CLASSICAL, "inpaint/digits": lambda picture, hole: next(done)}
        return measure(methods, packs, self.command)

    def evaluate_service(self, url: str, packs: Packs) -> list[ResultTable]:
        """Return what the service at `url` reaches. Raises ServiceProblem."""
        methods = {"inpaint/digits, served": partial(Service(url).inpaint, method="dcgan")}
        return measure(methods, packs, f"{self.command} --url {url}")


def load_samples(packs: Packs) -> tuple[np.ndarray, np.ndarray]:
    """Return DIGITS of the test digits, uint8 (N,28,28), and a square hole in the inner 20 by 20 of each, bool."""
    digits = np.rint(test_digits(packs)[:: 10_000 // DIGITS, ..., 0] * 255).astype(np.uint8)
    return digits, np.stack([_draw_square(np.random.default_rng(number)) for number in range(len(digits))])


def _draw_square(random: np.random.Generator) -> np.ndarray:
    missing = np.zeros((SIZE, SIZE), bool)
    top, left = random.integers(4, SIZE - 4 - HOLE + 1, size=2)
    missing[top : top + HOLE, left : left + HOLE] = True
    return missing


def run(network: Any, digits: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return uint8 (N,28,28) with what is `missing` found by the search."""
    mask = missing[..., None].astype(np.float32)
    image = (digits[..., None] / 255).astype(np.float32) * (1 - mask)
    state = np.zeros((len(digits), latent_search.STARTS, 3, dcgan.LATENT), np.float32)
    step = np.zeros((len(digits), 1), np.float32)
    found = image
    for _ in range(latent_search.CALLS):
        answer = network({"image": image, "mask": mask, "state": state, "step": step})
        found, state, step = (keras.ops.convert_to_numpy(answer[key]) for key in ("image", "state", "step"))
    return np.asarray(np.rint(found[..., 0] * 255).astype(np.uint8))


def measure(methods: Mapping[str, Fill], packs: Packs, command: str) -> list[ResultTable]:
    """Return what `methods` reach in the holes of `load_samples`."""
    report_progress(command)
    digits, missing = load_samples(packs)
    rows: list[list[str | float]] = []
    for name, fill in methods.items():
        found = [fill(np.where(hole, np.uint8(0), digit), hole) for digit, hole in zip(digits, missing, strict=True)]
        rows.append([name, psnr(np.stack(found)[missing], digits[missing])])
    title = f"MNIST test, every {10_000 // DIGITS}th digit, holes of {HOLE}×{HOLE} px, dB inside (of the mean error)"
    return [ResultTable(title, command, ["", "PSNR"], rows)]
