"""The four kinds of model that the contract was made for, and manifests that break it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from models import manifest as contract
from models.manifest import ManifestError

EXAMPLES = Path(__file__).parent / "examples"
KINDS = ["tiled", "fixed", "statistics", "loop"]


def example(name: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        contract.parse(json.dumps(data))
    return caught.value.problems


def test_there_are_exactly_the_four_kinds() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.json")) == sorted(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_example_is_parsed_and_survives_being_written(name: str, tmp_path: Path) -> None:
    manifest = contract.parse((EXAMPLES / f"{name}.json").read_bytes())
    assert manifest.id == "{task}/{name}@{version}".format(**example(name))
    contract.write(manifest, tmp_path)
    assert contract.read(tmp_path) == manifest


def test_examples_are_what_they_stand_for() -> None:
    tiled, fixed, statistics, loop = (contract.parse((EXAMPLES / f"{name}.json").read_bytes()) for name in KINDS)
    assert tiled.signatures["denoise"].inputs["level"].per == "sample"
    assert fixed.geometry.valid_sizes == [(28, 28)]
    assert statistics.signatures["statistics"].outputs.keys() <= statistics.signatures["paint"].inputs.keys()
    step = loop.signatures["step"]
    state = step.inputs.keys() & step.outputs.keys() - {"image"}
    assert state == {"code", "velocity"}
    assert all(step.inputs[name].shape == step.outputs[name].shape for name in state)


def test_precisions_are_functions_of_another_precision() -> None:
    data = example("tiled")
    data["signatures"]["denoise"]["precisions"] = {"bfloat16": "denoise_bfloat16"}
    manifest = contract.parse(json.dumps(data))
    variant, usual = manifest.functions["denoise_bfloat16"], manifest.signatures["denoise"]
    assert manifest.functions.keys() == {*manifest.signatures, "denoise_bfloat16"}
    assert (variant.inputs, variant.outputs, variant.precision) == (usual.inputs, usual.outputs, "bfloat16")
    data["signatures"]["denoise"]["precisions"] = {"float32": "other"}
    assert problems(data) == ["signatures.denoise: precisions: float32 is already the precision of the signature"]
    data["signatures"]["denoise"]["precisions"] = {"bfloat16": "denoise"}
    assert problems(data) == [
        "manifest: signatures: each function may be listed only once, as a signature or as a precision"
    ]


def test_a_signature_may_say_that_it_can_be_computed_in_bfloat16() -> None:
    data = example("tiled")
    assert not contract.parse(json.dumps(data)).signatures["denoise"].bfloat16
    data["signatures"]["denoise"]["bfloat16"] = True
    assert contract.parse(json.dumps(data)).signatures["denoise"].bfloat16
    needed = "signatures.denoise: bfloat16 needs a float32 signature without a function for bfloat16 in precisions"
    for key, value in {"precisions": {"bfloat16": "denoise_bfloat16"}, "precision": "float16"}.items():
        other = copy.deepcopy(data)
        other["signatures"]["denoise"][key] = value
        assert problems(other) == [needed]


def test_all_breaches_are_reported_at_once() -> None:
    data = example("tiled")
    data["task"] = "Sharpen!"
    data["name"] = "Photo 3"
    data["parameters"] = 0
    data["signatures"]["denoise"]["inputs"]["image"]["shape"] = [1, -1, -1, 3]
    data["geometry"]["tile_size"] = 120
    data["files"]["saved_model.pb"] = "abc"
    del data["licence"]
    del data["provenance"]["seed"]
    found = problems(data)
    for where in ("task", "name", "parameters", "signatures.denoise.inputs.image", "geometry", "files", "licence"):
        assert any(problem.startswith(where) for problem in found), (where, found)
    assert any(problem.startswith("provenance.seed") for problem in found)
    assert len(found) == 8


@pytest.mark.parametrize(
    "path", [(), ("geometry",), ("provenance",), ("serving",), ("signatures", "denoise", "inputs", "image")]
)
def test_unknown_keys_are_refused_everywhere(path: tuple[str, ...]) -> None:
    data = example("tiled")
    part = data
    for key in path:
        part = part[key]
    part["color"] = "blue"
    assert problems(data) == [f"{'.'.join((*path, 'color'))}: Extra inputs are not permitted"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"geometry": {"kind": "tiled"}}, "requires tile_size"),
        ({"geometry": {"kind": "fixed"}}, "requires valid_sizes"),
        ({"geometry": {"kind": "canonical"}}, "requires canonical_sizes"),
        ({"geometry": {"kind": "tiled", "halo": 16, "tile_size": 32}}, "must be greater than twice the margin of 16"),
        (
            {"geometry": {"kind": "tiled", "halo": 13, "multiple": 8, "tile_size": 32, "tile_step": 8}},
            "must be greater than twice the margin of 16",
        ),
        (
            {"geometry": {"kind": "tiled", "multiple": 8, "tile_size": 64, "tile_step": 4}},
            "and tile_step a multiple of 8",
        ),
        (
            {"geometry": {"kind": "tiled", "tile_size": 60, "tile_step": 32}},
            "tile_size 60 must be a multiple of tile_step 32",
        ),
        ({"files": {"../saved_model.pb": "0" * 64}}, "must be a relative path"),
        ({"files": {"/saved_model.pb": "0" * 64}}, "must be a relative path"),
        ({"files": {"manifest.json": "0" * 64}}, "must not be listed"),
        ({"schema_version": 2}, "schema_version"),
        ({"operations": []}, "operations"),
        ({"classes": [{"id": 1, "name": "sky", "color": [0, 0, 255]}] * 2}, "ids must be unique"),
        ({"quality": [{"title": "t", "command": "c", "columns": ["a", "b"], "rows": [["x"]]}]}, "one cell per column"),
    ],
)
def test_breach_is_named(change: dict[str, Any], said: str) -> None:
    data = {**example("tiled"), **copy.deepcopy(change)}
    (only,) = problems(data)
    assert said in only


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"manifest"', b"\xff\xfe"])
def test_what_is_no_manifest_is_a_manifest_error(text: str | bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        contract.parse(text)
    assert caught.value.problems
