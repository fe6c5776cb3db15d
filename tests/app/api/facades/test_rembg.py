"""The interface of rembg: its forms, and the line with curl of its documentation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.api.service import Service, file, opened, png
from tests.app.api.test_pictures import light


def remove(service: Service, query: str = "", headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """Send fields as a client does; bytes are files."""
    files = {name: (f"{name}.png", value) for name, value in fields.items() if isinstance(value, bytes)}
    data = {name: value for name, value in fields.items() if not isinstance(value, bytes)}
    return service.client.post(f"/api/remove{query}", files=files or {"x": ("", b"")}, data=data, headers=headers)


def test_the_background_is_removed(facades: Service) -> None:
    answer = remove(facades, file=file(light()), model="u2net", a="true", ppm="true")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-model"] == "segment/light@1"
    np.testing.assert_array_equal(opened(answer.content)[:, [2, -3], 3], np.repeat([[0, 255]], 48, 0))


def test_the_background_gets_a_color(facades: Service) -> None:
    colored = opened(remove(facades, "?bgc=255,0,0,255", file=file(light())).content)
    assert colored.shape[2] == 3
    np.testing.assert_array_equal(colored[0, 2], [255, 0, 0])
    assert opened(remove(facades, "?bgc=255,0,0,0", file=file(light())).content).shape[2] == 4


def test_the_mask_alone_is_gray(facades: Service) -> None:
    mask = opened(remove(facades, file=file(light()), om="true").content)
    np.testing.assert_array_equal(mask[:, [2, -3]], np.repeat([[0, 255]], 48, 0))


@pytest.mark.parametrize(
    ("query", "fields", "status", "text"),
    [
        ("", {"file": b"no picture"}, 415, "plain text"),
        ("", {"file": png()[:99]}, 422, "end"),
        ("", {}, 422, "Unknown field `x`"),
        ("", {"image": png()}, 422, "Did you mean `file`?"),
        ("", {"file": b""}, 422, "`file` is missing"),
        ("?bgc=red", {"file": png()}, 422, "`bgc` must be a color"),
        ("?bgc=1,2,3,128", {"file": png()}, 422, "`bgc` must be a color"),
    ],
)
def test_errors_have_the_form_of_rembg(
    facades: Service, query: str, fields: dict[str, Any], status: int, text: str
) -> None:
    answer = remove(facades, query, **fields)
    assert answer.status_code == status
    assert answer.json().keys() == {"detail"}
    assert text in answer.json()["detail"]


def test_a_key_is_needed_where_keys_are_set(keyed: Service) -> None:
    assert remove(keyed, file=png()).json() == {"detail": "No API key was sent."}
    assert remove(keyed, file=png(), headers={"X-API-Key": "right"}).status_code == 200


@pytest.mark.clients
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_line_with_curl_of_its_documentation(facades: Service, tmp_path: Path) -> None:
    (tmp_path / "input.jpg").write_bytes(file(light(), "jpeg", quality=95))
    line = f"curl -s -F file=@input.jpg http://localhost:{facades.port}/api/remove -o output.png"
    subprocess.run(line.split(), cwd=tmp_path, check=True)
    assert opened((tmp_path / "output.png").read_bytes()).shape == (48, 64, 4)
