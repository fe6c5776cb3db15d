"""Nothing that is sent to a facade gets a 500, or an error in another form than the facade's."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.facades import FACADES
from tests.app.api.service import Service, png

pytestmark = pytest.mark.integration

PATHS = (
    "/v1/images/edits", "/v1/images/upscale", "/api/remove", "/v1.0/removebg", "/api/v1/inpaint",
    "/api/v1/run_plugin_gen_image", "/sdapi/v1/extra-single-image",
)  # fmt: skip
NAMES = (
    "image", "mask", "file", "model", "n", "image[]", "image_file", "image_file_b64", "bg_color", "format", "name",
    "scale", "background", "om", "bgc", "upscaling_resize", "upscaler_1", "prompt", "dilate", "method", "output",
)  # fmt: skip
TEXTS = (
    st.sampled_from(["", "1", "true", "nan", "-1", "denoise/photo", "segment/light", "#fff", "RemoveBG"]) | st.text()
)
JSONS = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | TEXTS, st.lists, max_leaves=3)
KEYS = {"openai": "error", "rembg": "detail", "iopaint": "errors", "removebg": "errors", "a1111": "errors"}


def check(path: str, status: int, body: bytes) -> None:
    """Check that an answer is a result, or an error in the form of the facade."""
    assert status in {200, 400, 404, 413, 415, 422}, body
    if status != 200:
        (name,) = (name for name, facade in FACADES.items() if path.startswith(facade.prefix))
        assert KEYS[name] in json.loads(body)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=4),
    files=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([b"", b"x", png(), png()[:50]]), max_size=3),
)
def test_forms(facades: Service, path: str, texts: dict[str, str], files: dict[str, bytes]) -> None:
    sent = [(name, (name, value)) for name, value in files.items()] or [("none", ("", b""))]
    answer = facades.client.post(path, data=texts, files=sent)
    check(path, answer.status_code, answer.content)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=st.dictionaries(st.sampled_from(NAMES), JSONS, max_size=5))
def test_json(facades: Service, path: str, members: dict[str, object]) -> None:
    answer = facades.client.post(path, content=json.dumps(members), headers={"Content-Type": "application/json"})
    check(path, answer.status_code, answer.content)


def test_other_methods_and_addresses(facades: Service) -> None:
    for path in PATHS:
        assert facades.client.get(path).status_code == 405
        assert facades.client.head(path).status_code == 405
        assert facades.client.post(f"{path}/none").status_code == 404
