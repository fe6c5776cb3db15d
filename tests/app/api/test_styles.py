"""Presets: a list, small paintings, and answers that are not sent twice."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.engine.local import LocalEngine
from app.engine.registry import Registry
from app.main import create_app
from app.settings import Settings
from models import repository
from tests.app.api.service import MODELS, Service, opened, png, running, serving
from tests.engines import Loader, Painter
from tests.model_repository import OPTIMIZER, PAINTER, STYLES, WHOLE, manifest, optimize_signatures, stylize_signatures


def test_a_preset_that_is_listed_can_be_painted_in(service: Service) -> None:
    listed = service.client.get("/styles").json()
    assert listed["model"] == "stylize/color@1"
    assert [style["name"] for style in listed["styles"]] == ["starry-night", "green-field"]
    assert listed["styles"][1] == {
        "name": "green-field",
        "title": "Green Field",
        "artist": "Somebody",
        "year": "c. 1900",
        "preview": None,
        "painting": None,
        "model": "stylize/color@1",
    }
    for style in listed["styles"]:
        answer = service.send("/stylize", style=style["name"])
        assert answer.status_code == 200
        assert answer.headers["x-model"] == "stylize/color@1"
        assert f"style={style['name']}" in answer.headers["x-applied"]
        assert answer.headers["content-disposition"] == 'inline; filename="holiday-stylize.png"'


def test_a_picture_as_a_style(service: Service) -> None:
    answer = service.send("/stylize", style_image=png(), preserve_color="true", strength=0.5)
    assert answer.status_code == 200
    assert opened(answer.content).shape == (24, 40, 3)
    assert "style=style_image" in answer.headers["x-applied"]


def test_without_a_painter_there_are_no_styles() -> None:
    with serving(models=[manifest(default=True)]) as service:
        assert service.client.get("/styles").json() == {"model": None, "styles": []}
        assert service.client.get("/styles/starry-night.webp").status_code == 404


def test_styles_of_the_model_for_presets_come_first() -> None:
    signatures = {name: one for name, one in stylize_signatures().items() if name != "encode"}
    presets = manifest("stylize", "presets", signatures=signatures, styles=STYLES[1:], defaults=dict(PAINTER))
    with serving(models=[*MODELS, presets]) as service:
        listed = service.client.get("/styles").json()
        found = [(style["name"], style["model"]) for style in listed["styles"]]
        assert found == [("green-field", "stylize/presets@1"), ("starry-night", "stylize/color@1")]
        for name, model in found:
            assert service.send("/stylize", style=name).headers["x-model"] == model


@pytest.mark.integration
def test_long_work_is_a_job_and_says_how_far_it_is() -> None:
    vgg = manifest("stylize", "vgg19", signatures=optimize_signatures(), geometry=WHOLE, defaults=dict(OPTIMIZER))
    with serving(models=[*MODELS, vgg]) as service:
        asked = {"method": "optimize", "steps": 2000, "style_image": png(64, 64)}
        refused = service.send("/stylize", png(300, 400), **asked)
        assert refused.json()["type"] == "/problems/work-too-large"
        assert "Prefer: respond-async" in refused.json()["detail"]
        answer = service.send("/stylize", png(300, 400), headers={"Prefer": "wait=100"}, **asked)
        assert answer.status_code == 200
        assert opened(answer.content).shape == (300, 400, 3)
        assert answer.headers["x-model"] == "stylize/vgg19@1"
        assert answer.headers["preference-applied"] == "wait=100"
        assert "method=optimize;style=style_image;steps=2000;size=" in answer.headers["x-applied"]
        job = service.send("/stylize", png(300, 400), headers={"Prefer": "respond-async"}, **asked).headers["location"]
        limit = time.monotonic() + 60
        while (told := service.client.get(job).json())["state"] != "succeeded":
            assert told["state"] in ("queued", "running")
            assert told["done"] <= told["all"] in (0, 2000)
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert told["done"] == told["all"] == 2000
        assert service.client.get(f"{job}/result").content == answer.content
        # What cannot be is refused at once, and never becomes a job.
        for fields in ({"style": "stary-night"}, {"style": "starry-night", "method": "optimize"}, {}):
            answer = service.send("/stylize", headers={"Prefer": "respond-async"}, **fields)
            assert answer.status_code == 422


@pytest.mark.parametrize("path", ["/models", "/models/denoise/photo", "/styles"])
def test_what_is_known_already_is_not_sent_again(service: Service, path: str) -> None:
    first = service.client.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = service.client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert service.client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_paintings_come_from_the_models_folder_and_nothing_else_does(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "styles").mkdir(parents=True)
    small = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(small, "webp", lossless=True)
    (source / "styles/starry-night.webp").write_bytes(small.getvalue())
    (source / "card.md").write_text("secret", encoding="utf-8")
    described = manifest(
        "stylize", "color", signatures=stylize_signatures(), styles=STYLES, defaults={**PAINTER, "default": True}
    )
    repository.publish(described, source, tmp_path / "shelf")
    registry = Registry([tmp_path / "shelf"], Loader({"color": Painter()}))
    settings = Settings(models_dir=(tmp_path / "shelf",), data_dir=tmp_path / "data")
    app = create_app(settings, engine=LocalEngine(registry))
    with running(app) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        listed = {style["name"]: style["preview"] for style in client.get("/styles").json()["styles"]}
        assert listed == {"starry-night": "/styles/starry-night.webp", "green-field": None}
        painting = client.get(str(listed["starry-night"]))
        assert painting.headers["content-type"] == "image/webp"
        assert (opened(painting.content) == 77).all()
        tag = {"If-None-Match": painting.headers["etag"]}
        assert client.get(str(listed["starry-night"]), headers=tag).status_code == 304
        for name in ("green-field", "../card.md", "..%2fcard.md%00", "%2e%2e/card.md", "starry-night.webp"):
            answer = client.get(f"/styles/{name}.webp")
            assert answer.status_code == 404
            assert "secret" not in answer.text
        shutil.rmtree(tmp_path / "shelf" / "stylize")
        assert client.get(str(listed["starry-night"])).status_code == 404
