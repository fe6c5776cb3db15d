"""The brush of the page: strokes, eraser, undo, zoom, masks; by mouse, fingers and keys."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.app.api.service import file
from tests.e2e.page import KEYS, Page, photo, read

pytestmark = pytest.mark.chromium

HEIGHT, WIDTH = 120, 160


SCRATCHED = photo(HEIGHT, WIDTH)
for row in (36, 60, 84):
    SCRATCHED[row - 1 : row + 2, 32:128] = 250


@pytest.fixture
def erasing(page: Page) -> Page:
    """The page with a picture to erase from, and a brush of eight pixels."""
    page.put(SCRATCHED)
    page.task("inpaint")
    page.size(8)
    return page


def is_empty(page: Page) -> bool:
    return not page.mask().any()


def zoom(page: Page) -> int:
    return int(page.browser.text("#zoom").split()[0])


def test_the_result_differs_only_under_the_mask(erasing: Page) -> None:
    erasing.stroke((0.15, 0.5), (0.85, 0.5))
    mask = erasing.mask()
    assert mask[HEIGHT // 2, WIDTH // 4 : 3 * WIDTH // 4].all()
    assert mask[:, WIDTH // 2].sum() in range(7, 11)
    erasing.run()
    result = read(erasing.download())
    changed = (result != SCRATCHED).any(axis=-1)
    grown = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))).astype(bool)
    assert result[50:70].max() < 200, "the scratch is gone"
    assert not changed[~grown].any()
    assert (changed & ~mask).any(), "the mask is grown by four pixels"


def test_eraser_undo_redo_and_clear(erasing: Page) -> None:
    assert erasing.browser.all("#undo:disabled")
    erasing.stroke((0.2, 0.5), (0.8, 0.5))
    whole = erasing.mask()
    erasing.press("#erase")
    erasing.size(20)
    erasing.stroke((0.5, 0.2), (0.5, 0.8))
    cut = erasing.mask()
    assert cut[HEIGHT // 2, WIDTH // 4]
    assert not cut[HEIGHT // 2, WIDTH // 2]
    erasing.press("#undo")
    assert np.array_equal(erasing.mask(), whole)
    erasing.press("#redo")
    assert np.array_equal(erasing.mask(), cut)
    erasing.press("#clear")
    assert is_empty(erasing)
    erasing.press("#undo")
    assert np.array_equal(erasing.mask(), cut)


def test_keys_change_size_undo_and_choose_the_eraser(erasing: Page) -> None:
    erasing.stroke((0.2, 0.5), (0.8, 0.5))
    before = erasing.browser.run("return +document.querySelector('#size').value")
    erasing.browser.press("]", "]")
    larger = erasing.browser.run("return +document.querySelector('#size').value")
    erasing.browser.press("[")
    assert before < erasing.browser.run("return +document.querySelector('#size').value") < larger
    erasing.browser.press("e")
    assert erasing.browser.all("#erase[aria-pressed=true]")
    erasing.browser.press("z", held=KEYS["control"])
    assert is_empty(erasing)
    erasing.browser.press("z", held=KEYS["control"] + KEYS["shift"])
    assert not is_empty(erasing)


@pytest.mark.parametrize("kind", ["mouse", "pen", "touch"])
def test_mouse_pen_and_finger_draw_the_same(erasing: Page, kind: str) -> None:
    erasing.stroke((0.2, 0.5), (0.8, 0.5), kind=kind)
    rows, columns = np.nonzero(erasing.mask())
    assert (rows.min(), rows.max()) == pytest.approx((56, 63), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((28, 131), abs=1)


def test_a_stroke_drawn_with_keys_alone(erasing: Page) -> None:
    erasing.browser.run("document.querySelector('#edit canvas').focus()")
    erasing.browser.press(KEYS["enter"], *[KEYS["right"]] * 10, KEYS["enter"], KEYS["down"])
    mask = erasing.mask()
    assert mask[HEIGHT // 2, WIDTH // 2 : WIDTH // 2 + 20].all()
    assert not mask[HEIGHT // 2 + 8 :].any()


def test_zoom_by_wheel_keeps_the_point_below_the_mouse(erasing: Page) -> None:
    at = erasing.picture.at(0.25, 0.25)
    before = zoom(erasing)
    for _ in range(4):
        erasing.browser.wheel(*at, -100)
    erasing.until_text("#zoom", "%")
    assert zoom(erasing) > 1.5 * before
    assert erasing.picture.at(0.25, 0.25) == pytest.approx(at, abs=1.5)
    erasing.browser.drag(at, (at[0] + 1, at[1]))
    mask = erasing.mask()
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == pytest.approx((HEIGHT / 4, WIDTH / 4), abs=1.5)
    erasing.press("#zoom-fit")
    assert zoom(erasing) == before


def test_two_fingers_zoom_and_draw_nothing(erasing: Page) -> None:
    before = zoom(erasing)
    erasing.browser.pinch(*erasing.picture.at(0.5, 0.5), 40, 60, 80)
    assert zoom(erasing) == pytest.approx(2 * before, rel=0.1)
    assert is_empty(erasing)


def test_the_space_bar_moves_the_picture_and_draws_nothing(erasing: Page) -> None:
    before = erasing.picture
    x, y = before.at(0.5, 0.5)
    erasing.browser.run("document.querySelector('#edit canvas').focus()")
    erasing.browser.hold(" ", (x, y), (x + 50, y + 30))
    after = erasing.picture
    assert (after.left - before.left, after.top - before.top) == pytest.approx((50, 30), abs=1)
    assert is_empty(erasing)


def test_a_mask_is_saved_and_loaded(erasing: Page) -> None:
    erasing.stroke((0.2, 0.3), (0.8, 0.6))
    mask = erasing.mask()
    erasing.press("#clear")
    load(erasing, mask)
    assert np.array_equal(erasing.mask(), mask)


def test_a_mask_of_another_size_is_refused_in_words(erasing: Page) -> None:
    load(erasing, np.ones((10, 10), bool))
    assert "10×10" in erasing.until_text("#problem", "same size")
    assert is_empty(erasing)


def load(page: Page, mask: NDArray[np.bool_]) -> None:
    path = page.folder / "in" / "mask.png"
    path.write_bytes(file(mask[..., None].astype(np.uint8) * 255))
    page.browser.type(page.browser.find("#mask"), str(path))
    page.browser.until(lambda: page.browser.all("#clear:enabled, #problem:not([hidden])"), "the mask")


def test_without_a_mask_the_service_says_so(erasing: Page) -> None:
    erasing.press("#run")
    erasing.until_text("#problem", "mask is empty")
    assert [text for text in erasing.browser.complaints() if "422" not in text] == []


def test_strokes_are_erased_as_they_end(erasing: Page) -> None:
    erasing.press("label:has(#live)")
    erasing.stroke((0.15, 0.3), (0.85, 0.3))
    erasing.browser.find("#film button:nth-child(2)")
    erasing.stroke((0.15, 0.7), (0.85, 0.7))
    erasing.browser.until(lambda: erasing.browser.all("#wait[hidden]") and is_empty(erasing), "the second result")
    assert erasing.browser.all("body[data-mode=edit]")
    erasing.press("#film button:nth-child(2)")
    result = read(erasing.download())
    assert [int(result[row].max()) > 200 for row in (36, 60, 84)] == [False, True, False]
    assert np.array_equal(result[52:68], SCRATCHED[52:68])
    erasing.press("#film button:nth-child(1)")
    erasing.press("#undo")  # the second stroke
    erasing.press("#film button:nth-child(2)")
    result = read(erasing.download())
    assert [int(result[row].max()) > 200 for row in (36, 60, 84)] == [False, True, True]


def test_a_cutout_is_touched_up(page: Page) -> None:
    pixels = photo(HEIGHT, WIDTH)
    pixels[:, WIDTH // 2 :] += 150  # the light half is kept
    page.put(pixels)
    page.task("cutout")
    page.run()
    before = read(page.download())
    assert (before[60, 20, 3], before[60, 140, 3]) == (0, 255)
    page.press("#touch")
    page.size(16)
    page.stroke((0.1, 0.5), (0.2, 0.5))
    page.press("#erase")
    page.stroke((0.85, 0.5), (0.95, 0.5))
    page.press("#touch-done")
    page.browser.find("body[data-mode=result]")
    after = read(page.download())
    assert after[60, 24, 3] == 255
    assert np.array_equal(after[60, 24, :3], pixels[60, 24])
    assert after[60, 144, 3] == 0
    assert np.array_equal(after[:40, :, 3], before[:40, :, 3])
    opaque = before[:40, :, 3] == 255
    assert np.array_equal(after[:40][opaque], before[:40][opaque])
