"""What a manifest may say of quantized signatures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models import manifest as contract
from models.manifest import ManifestError
from tests.model_repository import manifest

KEPT = {"psnr25": (30.90, 30.85), "psnr50": (27.70, 27.61)}


def variant(**changes: Any) -> dict[str, Any]:
    """Return the entry of a variant that keeps the contract; `changes` are other fields of it."""
    usual = {
        "signature": "denoise",
        "file": "quantized/denoise.tflite",
        "bytes": 1000,
        "precision": "dynamic",
        "sizes": [(64, 64)],
        "figures": KEPT,
        "faster": 2.0,
        "operators": ["CONV_2D"],
    }
    return usual | changes


def parsed(*quantized: dict[str, Any]) -> contract.Manifest:
    described = manifest(files={"quantized/denoise.tflite": "0" * 64}).model_dump(mode="json")
    return contract.parse(json.dumps(described | {"quantized": list(quantized)}))


def test_a_variant_within_its_bounds() -> None:
    assert parsed(variant()).quantized[0].figures == KEPT
    assert parsed(variant(figures={"iou": (60.0, 59.8)})).quantized[0].precision == "dynamic"
    assert manifest().quantized == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"figures": {"psnr25": (30.9, 30.78)}}, "psnr25 falls from 30.900 to 30.780; it must lose less than 0.1"),
        ({"figures": {"psnr25": (30.9, 30.9), "psnr50": (27.7, 27.5)}}, "psnr50 falls"),
        ({"figures": {"iou": (60.0, 59.6)}}, "must lose less than 0.3"),
        ({"figures": {"psnr25": (30.9, float("nan"))}}, "psnr25"),
        ({"figures": {"content": (0.8, 0.8)}}, "no limit for the loss of content"),
        ({"figures": {}}, "figures"),
        ({"signature": "dream"}, "no signature 'dream'"),
        ({"file": "elsewhere.tflite"}, "'elsewhere.tflite' is not listed in files"),
        ({"precision": "int4"}, "precision"),
        ({"sizes": []}, "sizes"),
    ],
)
def test_what_breaks_the_contract(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match="quantized") as refused:
        parsed(variant(**changes))
    assert said in str(refused.value)


def test_a_signature_has_one_variant() -> None:
    with pytest.raises(ManifestError, match="may have only one entry"):
        parsed(variant(), variant(sizes=[(32, 32)]))
