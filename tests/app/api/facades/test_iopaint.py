"""The requests of IOPaint's web front end (1.6): those of a session that erases, removes a background and enlarges."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.api.service import Service, file, gradient, hole, opened, png
from tests.app.api.test_pictures import light

FRONT_END_OPTIONS = {
    "ldm_steps": 30, "ldm_sampler": "ddim", "zits_wireframe": True, "cv2_flag": "INPAINT_NS", "cv2_radius": 5,
    "hd_strategy": "Crop", "hd_strategy_crop_trigger_size": 640, "hd_strategy_crop_margin": 128,
    "hd_trategy_resize_imit": 2048, "prompt": "", "negative_prompt": "", "use_croper": False, "croper_x": 0,
    "croper_y": 0, "croper_height": 512, "croper_width": 512, "use_extender": False, "extender_x": 0,
    "extender_y": 0, "extender_height": 640, "extender_width": 640, "sd_mask_blur": 12, "sd_strength": 1,
    "sd_steps": 50, "sd_guidance_scale": 7.5, "sd_sampler": "DPM++ 2M", "sd_seed": -1, "sd_match_histograms": False,
    "sd_freeu": False, "sd_lcm_lora": False, "paint_by_example_example_image": None, "p2p_image_guidance_scale": 1.5,
    "enable_controlnet": False, "controlnet_conditioning_scale": 0.4, "controlnet_method": "",
    "enable_brushnet": False, "brushnet_method": "random_mask", "brushnet_conditioning_scale": 1,
    "enable_powerpaint_v2": False, "powerpaint_task": "text-guided",
}  # fmt: skip
MASKED = np.zeros((24, 40), bool)
MASKED[8:12, 10:18] = True


def data_url(data: bytes) -> str:
    """Return a file as `FileReader.readAsDataURL` does."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def inpaint(service: Service, **members: Any) -> httpx.Response:
    return service.client.post("/api/v1/inpaint", json=FRONT_END_OPTIONS | members)


def test_what_the_front_end_asks_for_at_its_start(facades: Service) -> None:
    server = facades.client.get("/api/v1/server-config").json()
    assert [plugin["name"] for plugin in server["plugins"] if plugin["support_gen_image"]] == ["RemoveBG", "RealESRGAN"]
    assert server["disableModelSwitch"]
    assert server["modelInfos"] == [facades.client.get("/api/v1/model").json()]
    assert server["modelInfos"][0]["name"] == "inpaint/grey"
    assert server["removeBGModel"] == "segment/light"
    assert facades.client.get("/api/v1/inputimage").status_code == 204
    info = facades.client.post("/api/v1/gen-info", files={"file": png()}).json()
    assert info == {"prompt": "", "negative_prompt": ""}


def test_an_erased_area_is_filled(facades: Service) -> None:
    strokes = np.zeros((24, 40, 4), np.uint8)  # a canvas: transparent but for the strokes
    strokes[MASKED] = 255
    for mask in (hole(), file(strokes)):
        answer = inpaint(facades, image=data_url(png()), mask=data_url(mask))
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-seed"] == "0"
        changed = (opened(answer.content) != gradient()).any(axis=-1)
        assert changed.any()
        assert not (changed & ~MASKED).any()


def test_plugins_remove_the_background_and_enlarge(facades: Service) -> None:
    def run(name: str, data: bytes, **members: Any) -> httpx.Response:
        content = {"name": name, "image": data_url(data), "clicks": [], **members}
        return facades.client.post("/api/v1/run_plugin_gen_image", json=content)

    assert opened(run("RemoveBG", file(light())).content).shape == (48, 64, 4)
    assert opened(run("RealESRGAN", png(), scale=2.0).content).shape == (48, 80, 3)
    assert "GFPGAN" in run("GFPGAN", png()).json()["errors"]
    assert "`scale` 4" in run("RealESRGAN", png(), scale=4).json()["errors"]


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"image": data_url(b"no picture"), "mask": data_url(hole())}, 415),
        ({"image": data_url(png()[:99]), "mask": data_url(hole())}, 422),
        ({"image": data_url(png())}, 422),
        ({"mask": data_url(hole())}, 422),
        ({"image": data_url(png()), "mask": data_url(hole(9, 9))}, 422),
        ({"image": "%%%", "mask": data_url(hole())}, 422),
        ({"image": 1, "mask": data_url(hole())}, 422),
    ],
)
def test_errors_have_the_text_that_the_front_end_shows(facades: Service, members: dict[str, Any], status: int) -> None:
    answer = inpaint(facades, **members)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "detail", "body", "errors"}
    assert answer.json()["errors"]


def test_keys_and_limits_hold(keyed: Service) -> None:
    sent = {"image": data_url(png()), "mask": data_url(hole())}
    assert inpaint(keyed, **sent).json()["errors"] == "No API key was sent."
    keyed.client.headers["X-API-Key"] = "right"
    try:
        assert inpaint(keyed, **sent).status_code == 200
        large = {"image": data_url(png(101, 100)), "mask": data_url(hole(101, 100))}
        assert inpaint(keyed, **large).status_code == 413
    finally:
        del keyed.client.headers["X-API-Key"]


def test_a_picture_of_megabytes_is_read(facades: Service) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1000, 3), np.uint8)
    marked = np.zeros((900, 1000, 1), np.uint8)
    marked[8:12, 10:18] = 255
    answer = inpaint(facades, image=data_url(file(noise)), mask=data_url(file(marked)))
    assert answer.status_code == 200, answer.text
    assert 0 < (opened(answer.content) != noise).any(axis=-1).sum() <= 32
