"""The page for everybody: axe-core's findings, narrow windows, dark mode, keyboard, words for screen readers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e import axe
from tests.e2e.page import KEYS, Page, photo

pytestmark = pytest.mark.chromium

TAB = "\ue004"


def empty(page: Page) -> None:
    pass


def edit(page: Page) -> None:
    page.put(photo())


def drawing(page: Page) -> None:
    page.put(photo())
    page.task("inpaint")
    page.stroke((0.2, 0.2), (0.8, 0.8))


def every_field(page: Page) -> None:
    page.put(photo())
    page.task("cutout")
    page.browser.run("document.querySelector('#more').open = true")


def styles(page: Page) -> None:
    page.put(photo())
    page.task("stylize")


def result(page: Page) -> None:
    page.put(photo())
    page.task("cutout")
    page.run()


def steps(page: Page) -> None:
    page.put(photo())
    page.task("old")
    page.run()


def lens(page: Page) -> None:
    page.put(photo())
    page.run()
    page.press("#lens")


def problem(page: Page) -> None:
    page.put(photo())
    page.choose(b"no picture", "notes.txt")
    page.until_text("#problem", "Unsupported")
    page.browser.complaints()


def waiting(page: Page) -> None:
    page.put(photo())
    page.browser.run("document.querySelector('#wait').hidden = false")


def asking(page: Page) -> None:
    page.browser.run("document.querySelector('#key').showModal()")


STATES = (empty, edit, drawing, every_field, styles, result, steps, lens, problem, waiting, asking)
each_state = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)


@pytest.fixture(scope="session")
def script(request: pytest.FixtureRequest) -> str:
    assert request.config.cache is not None
    return axe.load(request.config.cache.mkdir("axe-core"))


@each_state
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_grave(page: Page, script: str, state: Callable[[Page], None], dark: bool) -> None:
    page.browser.emulate(1280, 900, dark=dark)
    state(page)
    assert axe.grave_findings(page.browser, script) == []


def test_axe_finds_what_is_wrong(page: Page, script: str) -> None:
    page.browser.run("document.querySelector('#choose').style.color = '#17806d'")  # on a green that is nearly the same
    found = axe.grave_findings(page.browser, script)
    assert [line.split(":")[0] for line in found] == ["color-contrast"]


@each_state
@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_the_window(page: Page, state: Callable[[Page], None], width: int) -> None:
    page.browser.emulate(width, 844)
    state(page)
    wide = page.browser.run(
        "return [...document.querySelectorAll('body *')].filter(node => {"
        "  const box = node.getBoundingClientRect();"
        "  const clipped = node.closest('.sr, #curl code, #film, #edit, #compare, svg');"
        "  return !clipped && box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);"
        "}).map(node => node.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert page.browser.run("return document.documentElement.scrollWidth") <= width


def test_the_page_on_a_phone_is_used_with_a_finger(page: Page) -> None:
    page.browser.emulate(390, 844)
    drawing(page)
    page.run()
    box = page.browser.box(".frame")
    assert box.left >= 0
    assert box.left + box.width <= 390
    page.browser.drag(box.at(0.5, 0.5), box.at(0.8, 0.5))
    at = page.browser.run("return +document.querySelector('.frame input').value")
    assert at == pytest.approx(80, abs=3)


def test_dark_mode_is_dark(page: Page) -> None:
    def brightness() -> int:
        script = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        return int(sum(page.browser.run(script)))

    light = brightness()
    page.browser.emulate(1280, 900, dark=True)
    assert brightness() < 150 < 600 < light


def test_everything_is_reached_with_the_tab_key(page: Page) -> None:
    page.put(photo())
    page.run()
    page.browser.run("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.browser.press(TAB)
        reached.add(page.browser.run("return document.activeElement.id || document.activeElement.name"))
    assert {"task", "run", "hold", "lens", "next", "copy", "download", "copy-curl"} <= reached


def test_tasks_are_chosen_and_run_with_keys(page: Page) -> None:
    page.put(photo())
    page.browser.run("document.querySelector('#tasks :checked').focus()")
    page.browser.press(KEYS["down"])
    assert page.browser.text("#run") == "Enlarge"
    page.browser.press(KEYS["enter"])
    page.browser.find("body[data-mode=result]")


def test_screen_readers_are_told_what_happens(page: Page) -> None:
    page.put(photo())
    page.until_text("#status", "160 by 120")
    page.run()
    page.until_text("#status", "result is ready")
    assert page.browser.all("#status[aria-live=polite]")
    assert page.browser.all("#problem[role=alert]")


def test_motion_is_reduced_where_that_is_wished(page: Page) -> None:
    reduced = {"name": "prefers-reduced-motion", "value": "reduce"}
    page.browser.devtools("Emulation.setEmulatedMedia", features=[reduced])
    script = "return getComputedStyle(document.querySelector('.bar i')).transitionDuration"
    assert page.browser.run(script) == "0s"
