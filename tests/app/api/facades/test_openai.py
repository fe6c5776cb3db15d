"""The images interface of OpenAI: every shape by HTTP, and the `openai` package where it is installed."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.app.api.facades.conftest import basic
from tests.app.api.service import Service, file, gradient, hole, opened, png, serving

MASKED = np.zeros((24, 40), bool)
MASKED[8:12, 10:18] = True


def edit(service: Service, /, path: str = "/v1/images/edits", **fields: Any) -> httpx.Response:
    """Send fields as a client does; bytes are files."""
    files = {name: (f"{name}.png", value) for name, value in fields.items() if isinstance(value, bytes)}
    data = {name: value for name, value in fields.items() if not isinstance(value, bytes)}
    return service.client.post(path, files=files or {"none": b""}, data=data)


def pixels(answer: httpx.Response) -> NDArray[np.uint8]:
    """Return the picture of an answer."""
    assert answer.status_code == 200, answer.text
    return opened(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def transparent(missing: NDArray[np.bool_], alpha: int = 0) -> bytes:
    """Return a picture that is transparent where it is missing."""
    opacity = np.where(missing, alpha, 255).astype(np.uint8)
    return file(np.dstack([gradient(), opacity]))


GRAY = file(np.where(MASKED, 227, 127).astype(np.uint8)[..., None])


@pytest.mark.parametrize("mask", [transparent(MASKED), transparent(MASKED, 127), hole(), GRAY])
def test_an_edit_fills_what_the_mask_marks_and_nothing_else(service: Service, mask: bytes) -> None:
    answer = edit(service, image=png(), mask=mask, prompt="nothing there", model="gpt-image-1", n="1", size="auto")
    changed = (pixels(answer) != gradient()).any(axis=-1)
    assert changed.any()
    assert not (changed & ~MASKED).any()
    content = answer.json()
    assert content.keys() == {"created", "data", "output_format", "size"}
    assert content["output_format"] == "png"
    assert content["size"] == "40x24"
    assert "missing=32" in answer.headers["x-applied"]


def test_an_edit_without_a_mask_fills_what_is_transparent(service: Service) -> None:
    filled = pixels(edit(service, **{"image[]": transparent(MASKED)}))
    assert filled.shape == (24, 40, 3)
    np.testing.assert_array_equal(filled[~MASKED], gradient()[~MASKED])


def test_the_model_chooses_the_task(service: Service) -> None:
    assert pixels(edit(service, image=png(), model="denoise/photo")).shape == (24, 40, 3)
    assert pixels(edit(service, image=png(), model="superres/nearest", scale="3")).shape == (72, 120, 3)
    assert pixels(edit(service, image=png(), model="segment/light")).shape == (24, 40, 4)
    assert pixels(edit(service, image=png(), model="segment/light", background="opaque")).shape == (24, 40, 3)
    assert pixels(edit(service, "/v1/images/upscale", image=png())).shape == (48, 80, 3)


def test_options_of_the_task_can_be_added(service: Service) -> None:
    wide = edit(service, image=png(), mask=hole(), dilate="2", output_format="jpeg", output_compression="70")
    assert wide.json()["output_format"] == "jpeg"
    assert base64.b64decode(wide.json()["data"][0]["b64_json"]).startswith(b"\xff\xd8")
    assert "missing=84" in wide.headers["x-applied"]


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"image": png()}, 422, "mask", "conflicting-fields"),  # opaque, and no mask
        ({"image": b"no picture"}, 415, "image", "unsupported-image"),
        ({"image": png()[:99], "mask": hole()}, 422, "image", "broken-image"),
        ({"mask": hole()}, 422, "image", "missing-field"),
        ({"file": png()}, 422, "file", "unknown-field"),
        ({"image": png(), "mask": hole(9, 9)}, 422, "mask", "mask-size"),
        ({"image": png(), "mask": hole(), "model": "denoise/photo"}, 422, "mask", "conflicting-fields"),
        ({"image": png(), "model": "stylize/color"}, 422, "model", "unknown-model"),
        ({"image": png(), "model": "denoise/none"}, 422, "model", "unknown-model"),
        ({"image": png(), "model": "llama"}, 422, "model", "unknown-model"),
        ({"image": png(), "mask": hole(), "n": "2"}, 422, "n", "invalid-field"),
        ({"image": png(), "mask": hole(), "response_format": "url"}, 422, "response_format", "invalid-field"),
        ({"image": png(), "mask": hole(), "output_format": "bmp"}, 422, "format", "invalid-field"),
        ({"image": "https://example.org/a.png"}, 422, "image", "invalid-field"),
    ],
)
def test_errors_have_the_form_that_clients_show(
    service: Service, fields: dict[str, Any], status: int, param: str, code: str
) -> None:
    answer = edit(service, **fields)
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_a_wrong_field_gets_a_hint(service: Service) -> None:
    assert "Did you mean `image`?" in edit(service, file=png()).json()["error"]["message"]


def test_models_are_listed_with_the_defaults_first(service: Service) -> None:
    listed = service.client.get("/v1/models").json()
    names = [model["id"] for model in listed["data"]]
    assert listed["object"] == "list"
    assert set(names[:4]) == {"denoise/photo", "inpaint/grey", "segment/light", "superres/nearest"}
    assert "stylize/color" not in names
    assert service.client.get("/v1/models/denoise/photo").json() == {
        "id": "denoise/photo",
        "object": "model",
        "created": 1767312000,
        "owned_by": "restore",
    }
    assert service.client.get("/v1/models/none").json()["error"]["code"] == "not-found"


def test_keys_and_limits_hold_as_everywhere(keyed: Service) -> None:
    refused = edit(keyed, image=png(), mask=hole())
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert refused.json()["error"]["code"] == "unauthorized"
    for auth in ({"Authorization": "Bearer right"}, {"X-API-Key": "right"}, basic("any", "right"), basic("right", "")):
        assert keyed.client.get("/v1/models", headers=auth).status_code == 200
    for auth in (basic("right", "wrong"), {"Authorization": "Basic ?"}):
        assert keyed.client.get("/v1/models", headers=auth).status_code == 401
    large = keyed.client.post("/v1/images/edits", files={"image": png(101, 100)}, headers=basic("", "right"))
    assert large.status_code == 413
    assert large.json()["error"]["code"] == "too-many-pixels"


def test_errors_that_are_not_the_client_s_have_the_same_form(service: Service) -> None:
    answer = edit(service, image=png(), model="denoise/lost")
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.json()["error"]["code"] == "model-unavailable"
    with serving(rate_limit="1/hour") as limited:
        limited.client.get("/v1/models")
        refused = limited.client.get("/v1/models")
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too-many-requests"
        assert int(refused.headers["retry-after"]) > 3000
        assert refused.headers["ratelimit-policy"] == '"default";q=1;w=3600'


def test_a_facade_that_is_not_set_does_not_exist() -> None:
    with serving(facades=()) as running:
        answer = running.client.get("/v1/models")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.clients
def test_the_openai_package_edits_pictures_and_shows_errors(service: Service, keyed: Service) -> None:
    openai = pytest.importorskip("openai")

    def connect(to: Service, key: str) -> Any:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{to.port}/v1", api_key=key, max_retries=0)

    with connect(service, "none needed") as client:
        assert "inpaint/grey" in [model.id for model in client.models.list()]
        result = client.images.edit(image=("a.png", png()), mask=("m.png", hole()), prompt="gone", model="gpt-image-1")
        assert result.size == "40x24"
        changed = (opened(base64.b64decode(result.data[0].b64_json)) != gradient()).any(axis=-1)
        assert changed.any()
        assert not (changed & ~MASKED).any()
        enlarged = client.images.edit(
            image=[("a.png", png())], prompt="", model="superres/nearest", extra_body={"scale": 3}
        )
        assert enlarged.size == "120x72"
        with pytest.raises(openai.APIStatusError, match="plain text") as bad:
            client.images.edit(image=("a.png", b"no picture"), mask=("m.png", hole()), prompt="")
        assert bad.value.code == "unsupported-image"
    with connect(keyed, "wrong") as client, pytest.raises(openai.AuthenticationError, match="key is not valid"):
        client.models.list()
