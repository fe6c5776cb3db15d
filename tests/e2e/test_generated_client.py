"""A client made by openapi-python-client uploads a picture and gets it back. Runs where the generator is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.app.api.service import gradient, opened, png, serving

GENERATOR = shutil.which("openapi-python-client")
CONFIG = Path(__file__).resolve().parents[2] / "docs/openapi-python-client.yml"

pytestmark = [
    pytest.mark.generator,
    pytest.mark.skipif(GENERATOR is None, reason="openapi-python-client is not installed"),
]

PROGRAM = """
import io, sys
from restore_client import Client
from restore_client.api.models import list_models
from restore_client.api.pictures import denoise, segment
from restore_client.models import DenoiseBody, Problem, SegmentBody
from restore_client.types import File

address, source, target = sys.argv[1:]
client = Client(address)
picture = open(source, "rb").read()
body = DenoiseBody(image=File(payload=io.BytesIO(picture), file_name="a.png"), model="identity")
answer = denoise.sync_detailed(client=client, body=body)
assert answer.status_code == 200 and isinstance(answer.parsed, File), answer
open(target, "wb").write(answer.parsed.payload.read())
refused = denoise.sync(client=client, body=DenoiseBody(image=File(payload=io.BytesIO(b"x"), file_name="a.png")))
assert isinstance(refused, Problem) and refused.status == 415, refused
mask = segment.sync(client=client, body=SegmentBody(image=File(payload=io.BytesIO(picture), file_name="a.png")))
assert isinstance(mask, File), mask
models = list_models.sync(client=client)
assert "denoise/identity@1" in [model.id for model in models.models]
"""


def test_a_picture_goes_in_and_comes_back(tmp_path: Path) -> None:
    assert GENERATOR is not None
    (tmp_path / "a.png").write_bytes(png())
    with serving() as service:
        (tmp_path / "openapi.json").write_bytes(service.client.get("/openapi.json").content)
        made = subprocess.run(
            [GENERATOR, "generate", "--path", "openapi.json", "--config", CONFIG, "--meta", "none", "--output-path",
             "restore_client"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        assert "Unable to" not in made.stdout + made.stderr
        # The interpreter that the generator runs on has what its clients need.
        python = Path(GENERATOR).with_name("python")
        done = subprocess.run(
            [python, "-c", PROGRAM, f"http://127.0.0.1:{service.port}", "a.png", "b.png"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(opened((tmp_path / "b.png").read_bytes()), gradient())
