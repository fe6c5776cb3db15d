"""Enlarging as in AUTOMATIC1111's interface, and the package `webuiapi` where it is installed."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.app.api.service import Service, opened, png

ENCODED = base64.b64encode(png()).decode()


def extra(service: Service, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
    return service.client.post("/sdapi/v1/extra-single-image", json=members, headers=headers)


def test_a_picture_is_enlarged(facades: Service) -> None:
    for name in ("superres/nearest", "R-ESRGAN 4x+", "None"):
        answer = extra(facades, image=ENCODED, upscaling_resize=3.0, upscaler_1=name, resize_mode=0).json()
        assert answer.keys() == {"image", "html_info"}
        assert opened(base64.b64decode(answer["image"])).shape == (72, 120, 3)


def test_upscalers_are_listed(facades: Service) -> None:
    (listed,) = facades.client.get("/sdapi/v1/upscalers").json()
    assert listed["name"] == "superres/nearest"
    assert listed["scale"] == 3
    assert listed.keys() == {"name", "model_name", "model_path", "model_url", "scale"}


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"image": base64.b64encode(b"no picture").decode()}, 415),
        ({}, 422),
        ({"image": ENCODED, "resize_mode": 1}, 422),
        ({"image": ENCODED, "upscaling_resize": 1.5}, 422),
        ({"image": ENCODED, "upscaling_resize": "many"}, 422),
    ],
)
def test_errors_have_the_form_of_the_web_interface(facades: Service, members: dict[str, Any], status: int) -> None:
    answer = extra(facades, **members)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "detail", "body", "errors"}


def test_a_key_is_needed_where_keys_are_set(keyed: Service) -> None:
    assert extra(keyed, image=ENCODED).json()["detail"] == "No API key was sent."
    assert extra(keyed, {"X-API-Key": "right"}, image=ENCODED).status_code == 200


@pytest.mark.clients
def test_the_webuiapi_package_enlarges_and_shows_errors(facades: Service, keyed: Service) -> None:
    webuiapi = pytest.importorskip("webuiapi")
    client = webuiapi.WebUIApi(host="127.0.0.1", port=facades.port)
    with Image.open(io.BytesIO(png())) as picture:
        result = client.extra_single_image(picture, upscaling_resize=2, upscaler_1="superres/nearest")
        assert result.image.size == (80, 48)
        with pytest.raises(RuntimeError, match="upscaling_resize"):
            client.extra_single_image(picture, resize_mode=1)
        locked = webuiapi.WebUIApi(host="127.0.0.1", port=keyed.port, username="any", password="wrong")
        with pytest.raises(RuntimeError, match="key is not valid"):
            locked.extra_single_image(picture)
        locked.set_auth("any", "right")
        assert locked.extra_single_image(picture).image.size == (80, 48)
