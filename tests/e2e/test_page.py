"""The page at `/` in a Chromium: a picture goes in, a better one comes out."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from PIL import Image
from starlette.background import BackgroundTask

from tests.app.api.service import Service, file, gradient, running, serving, wait_until
from tests.e2e.browser import Browser
from tests.e2e.page import KEYS, Page, photo, read
from tests.engines import Slow

pytestmark = pytest.mark.chromium


def boundary(page: Page) -> str:
    return str(page.browser.run("return document.querySelector('.frame').style.getPropertyValue('--at')"))


def test_a_picture_goes_in_and_the_result_is_saved(page: Page) -> None:
    page.put(photo())
    page.run()
    assert "denoise/photo@1" in page.browser.text("#facts")
    path = page.download()
    assert path.name == "holiday-denoise.png"
    assert path.read_bytes() == page.service.denoise(file(photo())).content


def test_the_result_is_copied_as_a_png(page: Page) -> None:
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    page.browser.devtools("Browser.grantPermissions", permissions=permissions)
    page.choose(file(photo(), "jpeg"), "photo.jpg")
    page.browser.find("body[data-mode=edit]")
    page.run()
    page.press("#copy")
    page.until_text("#status", "Copied")
    assert page.browser.run("return navigator.clipboard.read().then(items => items[0].types)") == ["image/png"]


def test_the_boundary_is_moved_with_keys(page: Page) -> None:
    page.put(photo())
    page.run()
    assert boundary(page) == "50%"
    page.browser.run("document.querySelector('.frame input').focus()")
    page.browser.press(*[KEYS["left"]] * 5)
    assert boundary(page) == "45%"
    page.browser.press(KEYS["home"])
    assert boundary(page) == "0%"


def test_the_original_is_shown_while_a_button_is_held(page: Page) -> None:
    page.put(photo())
    page.run()
    page.browser.run("document.querySelector('#hold').dispatchEvent(new PointerEvent('pointerdown'))")
    assert boundary(page) == "100%"
    page.browser.run("document.querySelector('#hold').dispatchEvent(new PointerEvent('pointerup'))")
    assert boundary(page) == "50%"


def test_the_lens_shows_original_and_result_side_by_side(page: Page) -> None:
    large = photo(1200, 1800)
    page.put(large)
    page.task("stylize")
    page.run()
    page.press("#lens")
    page.browser.hover(*page.browser.box(".frame").at(0.3, 0.6))
    script = "return [...document.querySelector('.lens').getContext('2d').getImageData(0, 20, 300, 1).data]"
    shown = np.array(page.browser.run(script)).reshape(300, 4)
    row = 720 - 55  # of 150 rows around the mouse
    assert np.abs(shown[10:140, :3] - large[row, 540 - 65 : 540 + 65]).max() <= 2
    styled = read(page.download())
    assert np.abs(shown[160:290, :3] - styled[row, 540 - 65 : 540 + 65].astype(int)).max() <= 8
    assert np.abs(styled.astype(int) - large).mean() > 10


def test_an_enlarged_picture_has_its_size_and_is_the_next_input(page: Page) -> None:
    page.put(photo(60, 80))
    page.task("superres")
    page.press("#controls label:has([value='3'])")
    page.run()
    page.until_text("#facts", "80 × 60 → 240 × 180")
    page.press("#next")
    page.browser.find("body[data-mode=edit]")
    page.task("denoise")
    page.run()
    assert page.browser.text("#facts").startswith("240 × 180")
    assert page.download().name == "holiday-superres-denoise.png"


def test_an_old_photo_is_cleaned_up_then_enlarged_and_each_step_is_shown(page: Page) -> None:
    page.put(photo(60, 80))
    page.task("old")
    page.run()
    page.browser.find("#film button:nth-child(3)[aria-pressed=true]")
    shown = page.browser.text("#film").split("\n")
    assert shown == ["Picture", "80 × 60", "Clean up", "80 × 60", "Enlarge", "160 × 120"]
    page.press("#film button:nth-child(2)")
    assert "denoise/photo@1" in page.browser.text("#facts")


def test_the_samples_are_made_by_the_page(page: Page) -> None:
    for number, task in enumerate(["denoise", "superres", "inpaint", "cutout"], 1):
        page.open()
        page.press(f"#samples button:nth-of-type({number})")
        page.browser.find("body[data-mode=edit]")
        assert page.browser.run("return document.querySelector('#tasks :checked').value") == task
        page.run()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(page: Page, way: str) -> None:
    data = list(file(gradient(30, 50)))
    page.browser.run(
        "const carried = new DataTransfer();"
        f"carried.items.add(new File([new Uint8Array({data})], 'found.png', {{type: 'image/png'}}));"
        + (
            "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: carried, bubbles: true}))"
            if way == "drop"
            else "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: carried, bubbles: true}))"
        )
    )
    page.browser.find("body[data-mode=edit]")
    assert "image=@found.png" in page.browser.text("#curl code")


def test_a_format_that_browsers_cannot_show_is_decoded_by_the_service(page: Page, tmp_path: Path) -> None:
    page.choose(file(photo(), "tiff"), "scan.tiff")
    page.browser.find("body[data-mode=edit]")
    assert page.browser.run("return document.querySelector('#edit img').naturalWidth") == 160
    page.run()
    path = page.download()
    assert path.name == "scan-denoise.tiff"
    assert np.array_equal(read(path), photo())


def test_a_photo_is_shown_and_sent_upright(page: Page, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    page.choose(file(photo(), "jpeg", exif=exif), "upright.jpg")
    page.browser.find("body[data-mode=edit]")
    page.task("inpaint")
    page.stroke((0.2, 0.5), (0.8, 0.5))
    assert page.mask().shape == (160, 120)
    page.run()
    assert read(page.download()).shape[:2] == (160, 120)


def test_the_command_does_the_same(page: Page, tmp_path: Path) -> None:
    page.put(photo(), "it's mine.png")
    page.browser.click(page.browser.find("#controls .switch"))
    page.set("#denoise-strength", "0.4")
    page.set("#denoise-preserve", "0.5")
    page.run()
    expected = page.download()
    line = page.until_text("#curl code", "strength=0.4")
    assert shlex.split(line)[-1] == f"{page.origin}/denoise"
    (tmp_path / "it's mine.png").write_bytes(file(photo()))
    subprocess.run(["bash", "-ec", line], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / shlex.split(line)[3]).read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("name", "task", "output"),
    [
        ("a.JPG", "denoise", "a-denoise.jpg"),
        ("b.c.png", "superres", "b.c-superres.png"),
        ("photo", "denoise", "photo-denoise.png"),
        ("a.jpeg", "cutout", "a-segment.png"),
    ],
)
def test_the_command_names_the_file_as_the_service_will(page: Page, name: str, task: str, output: str) -> None:
    page.choose(file(photo(), "png" if name.endswith("png") else "jpeg"), name)
    page.browser.find("body[data-mode=edit]")
    page.task(task)
    before = shlex.split(page.until_text("#curl code", f"/{task}"))[3]
    page.run()
    after = shlex.split(page.browser.text("#curl code"))[3]
    assert before == output
    assert after == ("photo-denoise.jpg" if name == "photo" else output)


def test_the_other_fields_are_those_of_the_api(page: Page) -> None:
    page.put(photo())
    schema = page.service.client.get("/openapi.json").json()["paths"]
    for task in ("denoise", "superres", "inpaint", "stylize", "cutout"):
        page.task(task)
        body = schema[f"/{task}"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        wanted = {name for name in body if name not in ("image", "mask", "mask_from", "output", "opacity")}
        script = (
            "return [...document.querySelectorAll('#controls .field, #more .field')].map(node => node.dataset.field)"
        )
        assert set(page.browser.run(script)) - {None} == wanted


# --- problems ---


def test_a_problem_stands_beside_the_field_that_it_names(page: Page) -> None:
    page.put(photo())
    page.task("cutout")
    page.browser.run("document.querySelector('#more').open = true")
    page.set("#cutout-classes", "dragon")
    page.press("#run")
    text = page.until_text("[data-field=classes]", "no class 'dragon'")
    assert "light" in text
    assert page.browser.run("return document.activeElement.id") == "cutout-classes"
    page.set("#cutout-classes", "light")
    page.run()
    assert page.browser.all(".wrong") == []
    assert [text for text in page.browser.complaints() if "422" not in text] == []


def test_it_says_when_nothing_was_found(page: Page) -> None:
    page.put(photo())  # nothing in it is light
    page.task("cutout")
    page.run()
    page.until_text("#problem", "Nothing was found")
    assert page.browser.all("#touch:not([hidden])")


def test_a_file_that_is_no_picture_is_refused_in_words(page: Page) -> None:
    page.choose(b"hello there", "notes.txt")
    text = page.until_text("#problem", "Unsupported")
    assert "plain text" in text
    page.put(photo())
    assert page.browser.all("#problem:not([hidden])") == []
    assert [text for text in page.browser.complaints() if "415" not in text] == []


# --- waiting ---


@pytest.fixture
def slow() -> Iterator[Slow]:
    model = Slow()
    yield model
    model.gate.set()


def test_progress_and_cancel_of_a_job(window: Browser, slow: Slow, tmp_path: Path) -> None:
    with serving({"photo": slow}, settled=False, api_keys=("open sesame",)) as service:
        headers = {"X-API-Key": "open sesame"}

        def states() -> list[str]:
            return [job["state"] for job in service.client.get("/jobs", headers=headers).json()["jobs"]]

        window.emulate(1280, 900)
        page = Page(window, service, tmp_path)
        window.type(window.find("#key-value"), "open sesame")
        page.press("#key-save")
        page.put(photo())
        page.press("#run")
        page.until_text("#wait-text", "Working")  # after two seconds
        assert states() == ["running"]
        page.press("#cancel")
        assert window.find("#wait[hidden]")
        wait_until(lambda: states() == [])  # cancelled, then deleted
        page.press("#run")
        page.until_text("#wait-text", "Working")
        page.open()
        wait_until(lambda: states() == ["cancelled"])  # nobody waits for it any more
        page.put(photo())
        page.press("#run")
        page.until_text("#wait-text", "Working")
        slow.gate.set()
        window.find("body[data-mode=result]")
        wait_until(lambda: states() == ["cancelled"])  # the result was deleted, as the page says
        assert "deleted" in window.text("#kept")


def test_the_bar_shows_how_much_is_done(window: Browser, tmp_path: Path) -> None:
    class Stepwise(Slow):
        """Its gate lets `open` calls through."""

        calls = 0

        def run(self, signature, inputs):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls > 6:
                self.gate.wait(30)
            return {"image": inputs["image"].repeat(2, axis=1).repeat(2, axis=2)}

    model = Stepwise()
    try:
        with serving({"nearest": model}, settled=False, max_batch=1) as service:
            window.emulate(1280, 900)
            page = Page(window, service, tmp_path)
            page.put(photo(700, 700))
            page.task("superres")
            page.press("#run")
            page.until_text("#wait-text", "parts")
            shown = int(window.run("return document.querySelector('.bar').getAttribute('aria-valuenow')"))
            assert 0 <= shown < 100
            model.gate.set()
            window.find("body[data-mode=result]")
    finally:
        model.gate.set()


# --- below a path ---


def proxy(service: Service) -> FastAPI:
    """Return a reverse proxy that gives the service everything below `/restore/`, and nothing else."""
    app = FastAPI()
    app.state = service.app.state  # what the server of the tests needs

    @app.api_route("/restore/{path:path}", methods=["GET", "POST", "DELETE"])
    async def forward(request: Request, path: str) -> StreamingResponse:
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.port}", timeout=60)
        body = await request.body()
        sent = client.build_request(request.method, f"/{path}", headers=request.headers.raw, content=body)
        answer = await client.send(sent, stream=True)
        after = BackgroundTask(client.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers, background=after)

    return app


def test_it_works_below_a_path(window: Browser, slow: Slow, tmp_path: Path) -> None:
    with serving({"photo": slow}, settled=False) as service, running(proxy(service)) as (_, port):
        page = Page(window, replace(service, port=port), tmp_path, "/restore/")
        page.task("stylize")
        window.find(".styles input")
        page.task("denoise")
        page.put(photo())
        page.press("#run")
        page.until_text("#wait-text", "Working")
        slow.gate.set()
        window.find("body[data-mode=result]")
        assert page.until_text("#curl code", "curl").endswith(f"{page.origin}/restore/denoise")
        assert window.complaints() == []


# --- the key ---


def test_a_key_is_asked_for_and_kept_in_the_tab(window: Browser, tmp_path: Path) -> None:
    with serving(api_keys=("open sesame",)) as service:
        window.emulate(1280, 900)
        page = Page(window, service, tmp_path)
        window.type(window.find("#key-value"), "wrong")
        page.press("#key-save")
        page.put(photo())
        page.press("#run")
        page.until_text("#key-text", "not valid")
        page.set("#key-value", "open sesame")
        page.press("#key-save")
        page.run()
        assert "open sesame" not in window.text("#curl code")
        assert '"X-API-Key: $API_KEY"' in window.text("#curl code")
        assert window.run("return [localStorage.length, sessionStorage.getItem('key')]") == [0, "open sesame"]
        assert window.run("return document.cookie") == ""
        page.open()
        page.put(photo())
        page.run()


def test_the_service_needs_no_key_then_none_is_asked_for(page: Page) -> None:
    assert page.browser.all("#key-open[hidden]")
    assert page.browser.all("dialog[open]") == []
    assert json.dumps(page.service.client.get("/").json()["needs_key"]) == "false"
