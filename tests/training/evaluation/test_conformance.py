"""The evaluator agrees with the literature on bicubic enlargement: otherwise no figure of ours means anything."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.packs import Packs
from training.evaluation.photos import bicubic_figures, load_enlargement_set

pytestmark = [pytest.mark.tf, pytest.mark.data]

PSNR = {
    "Set5": (33.66, 30.39, 28.42),
    "Set14": (30.24, 27.55, 26.00),
    "B100": (29.56, 27.21, 25.96),
}
SSIM_SET5 = (0.9299, 0.8682, 0.8104)


@pytest.mark.parametrize("name", PSNR)
def test_bicubic_is_the_literatures(packs: Packs, name: str) -> None:
    pictures = load_enlargement_set(packs, name)
    for place, scale in enumerate((2, 3, 4)):
        psnr, ssim = np.mean([bicubic_figures(picture, scale, gray) for picture, gray in pictures], axis=0)
        assert psnr == pytest.approx(PSNR[name][place], abs=0.02)
        if name == "Set5":
            assert ssim == pytest.approx(SSIM_SET5[place], abs=0.0005)
