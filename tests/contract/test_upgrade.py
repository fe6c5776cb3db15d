"""Manifests of 0.1 keep working: their old keys are read, and written with the new names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import manifest as contract
from models.manifest import ManifestError

EXAMPLE = Path(__file__).parent / "examples/tiled.json"
QUANTIZED = {
    "signature": "denoise",
    "file": "quantized/denoise.tflite",
    "bytes": 1000,
    "precision": "int8",
    "sizes": [[128, 128]],
    "figures": {"psnr": [30.0, 29.95]},
    "faster": 1.5,
    "operators": ["CONV_2D"],
}


@pytest.fixture
def old() -> dict[str, Any]:
    """Return the content of a manifest as 0.1 wrote it."""
    data: dict[str, Any] = json.loads(EXAMPLE.read_text())
    for signature in data["signatures"].values():
        signature.pop("precisions", None)
        signature["variants"] = {}
    data["signatures"]["denoise"]["variants"] = {"bfloat16": "denoise_bfloat16"}
    data.pop("quantized", None)
    data["variants"] = [QUANTIZED]
    data["files"]["quantized/denoise.tflite"] = "0" * 64
    return data


def test_old_keys_are_read(old: dict[str, Any]) -> None:
    read = contract.parse(json.dumps(old))
    assert read.signatures["denoise"].precisions == {"bfloat16": "denoise_bfloat16"}
    assert [entry.file for entry in read.quantized] == ["quantized/denoise.tflite"]


def test_they_are_written_with_their_new_names(old: dict[str, Any], tmp_path: Path) -> None:
    contract.write(contract.parse(json.dumps(old)), tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    assert "variants" not in text
    assert contract.read(tmp_path) == contract.parse(json.dumps(old))


def test_an_old_key_beside_the_new_one_is_refused_and_names_it(old: dict[str, Any]) -> None:
    old["quantized"] = []
    with pytest.raises(ManifestError, match="variants is the old name of quantized"):
        contract.parse(json.dumps(old))
