"""The sheets of docs/styles.md show three sizes and a part at full size, and the page shows every sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts import style_sheets

PAGE = Path(style_sheets.__file__).resolve().parent.parent / "docs/styles.md"


def test_a_row_has_each_size_and_the_middle_of_the_largest() -> None:
    photograph = style_sheets.PHOTOGRAPHS["portrait"]()
    sides: list[int] = []

    def paint(pixels: np.ndarray) -> np.ndarray:
        sides.append(len(pixels))
        return 255 - pixels

    row = style_sheets.draw_row(photograph, paint)
    assert sides == list(style_sheets.SIDES)
    assert row.shape == (style_sheets.SHOWN, 4 * style_sheets.SHOWN, 3)
    small, medium, large = (row[:, place * style_sheets.SHOWN :][:, : style_sheets.SHOWN] for place in range(3))
    np.testing.assert_allclose(small.mean(), large.mean(), atol=3)
    np.testing.assert_allclose(medium.mean(), large.mean(), atol=3)


def test_the_page_has_all_sheets() -> None:
    text = PAGE.read_text("utf-8")
    for title in style_sheets.PHOTOGRAPHS:
        assert f"images/styles-{title}.jpg" in text
        assert (style_sheets.FOLDER / f"styles-{title}.jpg").is_file()
