"""The interface of remove.bg: its forms, and the package `removebg` where it is installed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.api.service import Service, file, opened, png
from tests.app.api.test_pictures import light

PATH = "/v1.0/removebg"
CUT = np.repeat([[0, 255]], 48, 0)


def remove(service: Service, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    """Send fields as a client does; bytes are files."""
    files = {name: (f"{name}.png", value) for name, value in fields.items() if isinstance(value, bytes)}
    data = {name: value for name, value in fields.items() if not isinstance(value, bytes)}
    return service.client.post(PATH, files=files, data=data, headers=headers)


def test_a_file_is_cut_out(facades: Service) -> None:
    answer = remove(facades, image_file=file(light()), size="auto", type="person")
    np.testing.assert_array_equal(opened(answer.content)[:, [2, -3], 3], CUT)
    shown = {name: answer.headers[name] for name in ("x-type", "x-width", "x-height", "x-credits-charged")}
    assert shown == {"x-type": "other", "x-width": "64", "x-height": "48", "x-credits-charged": "0"}


def test_a_picture_in_base64_is_cut_out(facades: Service) -> None:
    encoded = base64.b64encode(file(light())).decode()
    for body in ({"json": {"image_file_b64": encoded, "crop": False}}, {"data": {"image_file_b64": encoded}}):
        answer = facades.client.post(PATH, **body, headers={"Accept": "application/json"})  # type: ignore[arg-type]
        assert answer.headers["content-type"] == "application/json"
        cut = opened(base64.b64decode(answer.json()["data"]["result_b64"]))
        np.testing.assert_array_equal(cut[:, [2, -3], 3], CUT)


def test_backgrounds_and_formats(facades: Service) -> None:
    for color in ("ff0000", "#f00", "F00"):
        np.testing.assert_array_equal(
            opened(remove(facades, image_file=file(light()), bg_color=color).content)[0, 2], [255, 0, 0]
        )
    jpeg = remove(facades, image_file=file(light()), format="jpg")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert (opened(jpeg.content)[0, 2] > 250).all()
    behind = file(np.full((48, 64, 3), [0, 0, 200], np.uint8))
    placed = opened(remove(facades, image_file=file(light()), bg_image_file=behind).content)
    np.testing.assert_array_equal(placed[0, 2], [0, 0, 200])
    mask = opened(remove(facades, image_file=file(light()), channels="alpha").content)
    np.testing.assert_array_equal(mask[:, [2, -3]], CUT)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"image_file": b"no picture"}, 415, "unsupported_image"),
        ({"image_file": png()[:99]}, 422, "broken_image"),
        ({"bg_image_file": png()}, 422, "missing_field"),
        ({"image_file": png(), "bg_color": "green-ish"}, 422, "invalid_field"),
        ({"image_file": png(), "bg_color": "81d4fa77"}, 422, "invalid_field"),
        ({"image_file": png(), "format": "zip"}, 422, "invalid_field"),
        ({"image_file": png(), "crop": "true"}, 422, "invalid_field"),
        ({"image_file": png(), "bg_image_url": "https://example.org"}, 422, "invalid_field"),
        ({"image_file": png(), "sizes": "auto"}, 422, "unknown_field"),
    ],
)
def test_errors_have_the_form_of_remove_bg(facades: Service, fields: dict[str, Any], status: int, code: str) -> None:
    answer = remove(facades, **fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["errors"][0]
    assert error["code"] == code
    assert error["title"]
    assert error["detail"]


def test_urls_are_not_fetched(facades: Service) -> None:
    answer = facades.client.post(PATH, data={"image_url": "https://example.org/a.jpg"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "missing_field")
    answer = facades.client.post(PATH, json={"image_file_b64": "https://example.org/a.jpg"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "invalid_field")


def test_a_key_is_needed_where_keys_are_set(keyed: Service) -> None:
    assert remove(keyed, image_file=png()).json()["errors"][0]["code"] == "unauthorized"
    assert remove(keyed, image_file=png(), headers={"X-Api-Key": "right"}).status_code == 200


@pytest.mark.clients
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # after an error it leaves its file open
def test_the_removebg_package_cuts_out_and_shows_errors(facades: Service, keyed: Service, tmp_path: Path) -> None:
    client = pytest.importorskip("removebg.removebg")
    (tmp_path / "a.png").write_bytes(file(light()))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    client.API_ENDPOINT = f"http://127.0.0.1:{facades.port}{PATH}"
    session = client.RemoveBg("any", str(tmp_path / "errors.log"))
    session.remove_background_from_img_file(str(tmp_path / "a.png"), bg_color="ff0000")
    np.testing.assert_array_equal(opened((tmp_path / "a.png_no_bg.png").read_bytes())[0, 2], [255, 0, 0])
    encoded = base64.b64encode(file(light())).decode()
    session.remove_background_from_base64_img(encoded, new_file_name=str(tmp_path / "b.png"))
    assert opened((tmp_path / "b.png").read_bytes()).shape == (48, 64, 4)
    with pytest.raises(Exception, match="415"):
        session.remove_background_from_img_file(str(tmp_path / "bad.png"))
    client.API_ENDPOINT = f"http://127.0.0.1:{keyed.port}{PATH}"
    with pytest.raises(Exception, match="401"):
        session.remove_background_from_img_file(str(tmp_path / "a.png"))
