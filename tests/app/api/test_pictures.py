"""What comes back for a picture."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app import media_types
from app.engine.protocol import Arrays
from app.imaging import classical_inpaint
from tests.app.api.service import Honest, Service, file, gradient, hole, opened, png, serving, wait_until
from tests.app.imaging.heic_writer import write_heic
from tests.app.imaging.samples import exif
from tests.model_repository import manifest, photo_signatures


def test_denoise_answers_the_picture_with_its_headers(service: Service) -> None:
    answer = service.denoise(png(), headers={"X-Request-Id": "my.request-1"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(opened(answer.content), gradient())
    assert answer.headers["x-model"] == "denoise/photo@1"
    assert answer.headers["link"] == '</models/denoise/photo>; rel="describedby"'
    assert re.fullmatch(r"strength=0\.250;tiles=\d+;precision=float32", answer.headers["x-applied"])
    assert answer.headers["x-request-id"] == "my.request-1"
    assert answer.headers["content-disposition"] == 'inline; filename="holiday-denoise.png"'
    assert answer.headers["cache-control"] == "private, no-store"
    stages = re.findall(r"(\w+);dur=\d+\.\d(?:, |$)", answer.headers["server-timing"])
    assert stages == ["decode", "queue", "model", "encode"]


def test_superres_enlarges(service: Service) -> None:
    answer = service.send("/superres", png(), scale=3)
    assert answer.status_code == 200
    np.testing.assert_array_equal(opened(answer.content), gradient().repeat(3, axis=0).repeat(3, axis=1))
    assert answer.headers["content-disposition"] == 'inline; filename="holiday-superres.png"'


def light(height: int = 48, width: int = 64) -> np.ndarray:
    """Return a picture whose right half is white."""
    return np.repeat(np.arange(width)[None, :, None] >= width // 2, height, 0).repeat(3, 2).astype(np.uint8) * 255


def test_segment_answers_each_output(service: Service) -> None:
    data = file(light(), "jpeg", quality=95)
    answer = service.send("/segment", data)
    assert answer.headers["content-type"] == "image/png"  # a mask is no photograph: it keeps no lossy format
    assert answer.headers["content-disposition"] == 'inline; filename="holiday-segment.png"'
    np.testing.assert_array_equal(opened(answer.content)[:, [2, -3]], np.repeat([[0, 255]], 48, 0))
    cut = opened(service.send("/segment", file(light()), output="cutout").content)
    assert cut.shape == (48, 64, 4)
    np.testing.assert_array_equal(cut[:, [2, -3], 3], np.repeat([[0, 255]], 48, 0))
    np.testing.assert_array_equal(opened(service.send("/cutout", file(light())).content), cut)
    overlay = opened(service.send("/segment", file(light()), output="overlay", opacity=1).content)
    assert (overlay[:, 2] == 0).all()
    assert (overlay[:, -3] == [255, 255, 0]).all()
    dark = service.send("/cutout", file(light() * 0), headers={"Accept": "application/json"})
    assert "found=nothing" in dark.headers["x-applied"]
    assert len(dark.json()["warnings"]) == 1
    table = service.send("/segment", file(light()), output="json", headers={"Accept": "application/json"})
    assert table.headers["content-type"] == media_types.TABLE
    assert table.json()["model"] == table.headers["x-model"] == "segment/light@1"
    assert sum(row["pixels"] for row in table.json()["classes"]) == 48 * 64


def test_mask_of_classes_names_them_in_its_palette(service: Service) -> None:
    answer = service.send("/segment", file(light()), model="lights")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.mode == "P"
        assert image.getpalette()[:6] == [0, 0, 0, 255, 255, 0]
        assert json.loads(image.info["Classes"]) == {"0": "background", "1": "light"}
        assert set(np.unique(np.asarray(image))) == {0, 1}
    tiff = service.send("/segment", file(light()), model="lights", format="tiff")
    assert set(np.unique(opened(tiff.content))) == {0, 1}


def test_inpaint_fills_what_the_mask_marks(service: Service) -> None:
    missing = opened(hole()) > 0
    spoilt = gradient()
    spoilt[missing] = 255
    for method in ("telea", "ns", "biharmonic"):
        answer = service.send("/inpaint", file(spoilt), mask=hole(), method=method)
        assert answer.status_code == 200
        pixels = opened(answer.content)
        np.testing.assert_array_equal(pixels[~missing], gradient()[~missing])
        assert np.abs(pixels[missing].astype(int) - gradient()[missing]).max() < 24
        assert answer.headers["x-applied"] == f"method={method}:1;missing=32"
        assert answer.headers["content-disposition"] == 'inline; filename="holiday-inpaint.png"'
        assert "x-model" not in answer.headers
        assert "link" not in answer.headers
    for method in ("auto", "neural"):
        answer = service.send("/inpaint", file(spoilt), mask=hole(), method=method)
        np.testing.assert_array_equal(opened(answer.content), np.where(missing[..., None], 128, gradient()))
        assert answer.headers["x-applied"] == "method=neural:1;missing=32;precision=float32"
        assert answer.headers["x-model"] == "inpaint/grey@1"


def test_inpaint_without_a_model_is_no_work_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, fill = threading.Event(), classical_inpaint.fill

    def slow(*arguments: Any) -> NDArray[Any]:
        assert gate.wait(30)
        return fill(*arguments)

    monkeypatch.setattr(classical_inpaint, "fill", slow)
    with serving() as service, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.send, "/inpaint", mask=hole(), method="telea")
        wait_until(lambda: service.pipeline.budget.used > 0)
        counted = service.pipeline.admission.seconds
        gate.set()
        assert (counted, answer.result(30).status_code) == (0, 200)
        service.send("/inpaint", mask=hole(), method="auto")
        kinds = {model for model, signature, *_ in service.pipeline.engine.latency.rows() if signature == "request"}
        assert kinds == {"inpaint ×1"}


def test_inpaint_fills_what_is_seen_through(service: Service) -> None:
    see_through = np.dstack([gradient(), 255 - opened(hole())])
    answer = service.send("/inpaint", file(see_through), mask_from="alpha", headers={"Accept": "image/jpeg"})
    assert answer.headers["content-type"] == "image/jpeg"
    body = service.send("/inpaint", file(see_through), mask_from="alpha", headers={"Accept": "application/json"}).json()
    assert (body["model"], body["applied"]["missing"]) == ("inpaint/grey@1", "32")


def test_background_image_goes_behind_the_cutout(service: Service) -> None:
    files = {"image": ("a.png", file(light())), "background_image": ("b.png", file(np.full((9, 9, 3), 77, np.uint8)))}
    answer = service.client.post("/segment", files=files, data={"output": "cutout"})
    pixels = opened(answer.content)
    assert pixels.shape == (48, 64, 3)
    assert (pixels[:, 2] == 77).all()
    assert (pixels[:, -3] == 255).all()
    files["background_image"] = ("b.png", file(np.full((9, 9, 4), 77, np.uint8)))
    answer = service.client.post("/segment", files=files, data={"output": "cutout"})
    assert np.abs(opened(answer.content)[:, 2].astype(int) - 77).max() <= 1
    refused = service.client.post("/segment", files=files, data={"output": "cutout", "format": "jpeg"})
    assert refused.json()["field"] == "format"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ä", "a\tb"])
def test_an_odd_request_id_is_replaced(service: Service, given: str) -> None:
    answer = service.client.get("/livez", headers=[(b"X-Request-Id", given.encode("latin-1"))])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("form", "accept", "expected"),
    [
        ("auto", "*/*", "image/png"),
        ("auto", "image/*", "image/png"),
        ("auto", "image/webp", "image/webp"),
        ("auto", "image/webp;q=0.5,image/tiff", "image/tiff"),
        ("jpeg", "image/webp", "image/jpeg"),
        ("avif", "*/*", "image/avif"),
        ("tiff", "text/html", "image/tiff"),
    ],
)
def test_format_wins_over_accept_and_auto_keeps(service: Service, form: str, accept: str, expected: str) -> None:
    answer = service.denoise(format=form, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, expected)


def test_pictures_of_phones_and_gif(service: Service) -> None:
    """Formats that are read and not written: the answer is a JPEG, or a PNG where that is needed."""
    deep = gradient().astype(np.uint16) * 257
    phone = write_heic({"8": (gradient(), {"exif": b"Exif\0\0" + exif(6)}), "16": (deep, {})})
    for data, expected in ((phone["8"], "jpeg"), (phone["16"], "png"), (file(gradient(), "gif"), "png")):
        answer = service.denoise(data)
        assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{expected}")
    height, width, _ = gradient().shape
    assert opened(service.denoise(phone["8"]).content).shape == (width, height, 3)


def test_accept_may_come_on_several_lines(service: Service) -> None:
    accept = [("Accept", "text/html"), ("Accept", "image/webp")]
    answer = service.client.post("/denoise", files={"image": png()}, headers=accept)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")


def test_quality_and_lossless_are_heeded(service: Service) -> None:
    noise = file(np.random.default_rng(7).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    sizes = [len(service.denoise(noise, format="jpeg", quality=quality).content) for quality in (10, 50, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    exact = service.denoise(noise, format="webp", lossless="true")
    np.testing.assert_array_equal(opened(exact.content), opened(noise))


def test_strip_removes_what_keep_keeps(service: Service) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    tagged = file(gradient(), "jpeg", exif=exif, quality=95)
    for metadata, expected in (("keep", "a description"), ("strip", None), ("color", None)):
        answer = service.denoise(tagged, metadata=metadata)
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.getexif().get(0x010E) == expected


def test_preserve_and_strength_reach_the_task(service: Service) -> None:
    answer = service.denoise(strength="0.5", preserve="0.25")
    assert answer.headers["x-applied"].startswith("strength=0.500;")


def test_an_empty_text_is_the_default(service: Service) -> None:
    answer = service.denoise(model="", strength=" ", quality="")
    assert answer.status_code == 200
    assert answer.headers["x-model"] == "denoise/photo@1"


def test_a_named_model_is_used(service: Service) -> None:
    assert service.denoise(model="identity@1").headers["x-model"] == "denoise/identity@1"


def test_json_envelope(service: Service) -> None:
    answer = service.denoise(headers={"Accept": "application/json"}, format="webp", lossless="yes")
    assert answer.headers["content-type"] == media_types.RESULT
    content = answer.json()
    assert set(content) == {"image", "content_type", "width", "height", "model", "applied", "warnings", "timing"}
    assert content["content_type"] == "image/webp"
    assert (content["width"], content["height"]) == (40, 24)
    assert content["model"] == answer.headers["x-model"] == "denoise/photo@1"
    assert content["applied"]["strength"] == "0.250"
    assert list(content["timing"]) == ["decode", "queue", "model", "encode"]
    np.testing.assert_array_equal(opened(base64.b64decode(content["image"])), gradient())


def test_the_same_request_gives_the_same_bytes(service: Service) -> None:
    assert service.denoise().content == service.denoise().content


def test_the_precision_that_is_used_is_told() -> None:
    class Halved(Honest):
        """Is faster in bfloat16."""

        def run(self, signature: str, inputs: Arrays) -> Arrays:
            if signature == "denoise":
                time.sleep(0.05)
            return super().run(signature, inputs)

    signatures = photo_signatures()
    signatures["denoise"] = signatures["denoise"].model_copy(update={"precisions": {"bfloat16": "half"}})
    described = manifest(name="photo", signatures=signatures, default=True)
    with serving({"photo": Halved()}, [described]) as service:
        assert "precision=bfloat16" in service.denoise(strength=0.5).headers["x-applied"]
        card = service.client.get("/models/denoise/photo").json()
        assert card["precision"] == card["precisions"] == ["bfloat16", "float32"]  # the estimate has one only
        assert card["manifest"]["signatures"]["denoise"]["precision"] == "float32"


def test_pictures_of_16_bits_are_computed_in_float32() -> None:
    class Listening(Honest):
        """Keeps the names of the functions that are called."""

        calls: list[str] = []

        def run(self, signature: str, inputs: Arrays) -> Arrays:
            self.calls.append(signature)
            return super().run(signature, inputs)

    signatures = photo_signatures()
    signatures["denoise"] = signatures["denoise"].model_copy(update={"bfloat16": True})
    described = manifest(name="photo", signatures=signatures, default=True)
    with serving({"photo": Listening()}, [described], precision="bfloat16") as service:
        deep = file(gradient().astype(np.uint16)[..., 0] * 257, "png")
        for data, precision in ((png(), "bfloat16"), (deep, "float32")):
            answer = service.denoise(data, strength=0.5)
            assert answer.headers["x-applied"].endswith(f"precision={precision}")
            assert ("denoise" in Listening.calls) == (precision == "float32")
            assert "denoise:bfloat16" in Listening.calls
        assert service.client.get("/models/denoise/photo").json()["precision"] == ["bfloat16", "float32"]


def test_models_and_cards(service: Service) -> None:
    listed = service.client.get("/models").json()["models"]
    assert "denoise/photo@1" in [model["id"] for model in listed]
    assert [model["id"] for model in listed if model["default"]] == [
        "denoise/photo@1",
        "inpaint/grey@1",
        "segment/light@1",
        "stylize/color@1",
        "superres/nearest@1",
    ]
    for model in listed:
        card = service.client.get(model["card"]).json()
        assert card["id"] == model["id"]
        assert card["versions"] == [1]
        assert card["manifest"]["licence"] == model["licence"] == "Apache-2.0"
    link = service.denoise().headers["link"]
    assert service.client.get(link.partition(">")[0][1:]).json()["state"] == "loaded"
    assert service.client.get("/models/denoise/photo@1").json()["id"] == "denoise/photo@1"


@pytest.mark.parametrize(
    ("path", "options"), [("/denoise", {}), ("/superres", {"scale": 2}), ("/superres", {"scale": 3})]
)
def test_print_resolution_stays_the_same_also_of_an_enlarged_picture(
    service: Service, path: str, options: dict[str, int]
) -> None:
    answer = service.send(path, file(gradient(), "jpeg", dpi=(300, 300)), format="tiff", **options)
    assert Image.open(io.BytesIO(answer.content)).info["dpi"] == (300, 300)
    assert "resolution" not in answer.headers["x-applied"]
