"""The masks of docs/removals.md lie in what is shown, and the page shows every sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts import removals

PAGE = Path(removals.__file__).resolve().parent.parent / "docs/removals.md"


@pytest.mark.parametrize("removal", removals.REMOVALS, ids=lambda removal: removal.name)
def test_the_mask_is_shown(removal: removals.Removal) -> None:
    mask = removal.mask()
    assert 0 < np.count_nonzero(mask) < mask.size / 4
    shown = removals.show(removal.make(), removal.corner, mask)
    assert shown.shape == (removals.SIDE, removals.SIDE, 3)
    assert (shown == (255, 0, 255)).all(axis=-1).mean() > 0.02


def test_the_page_has_all_sheets() -> None:
    text = PAGE.read_text("utf-8")
    sheets = -(-len(removals.REMOVALS) // removals.PER_SHEET)
    for number in range(1, sheets + 1):
        assert f"images/removals-{number}.jpg" in text
        assert (removals.FOLDER / f"removals-{number}.jpg").is_file()
