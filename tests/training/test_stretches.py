"""What a training took is counted from its first stretch on, and once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.stretches import before, earlier


def write(file: Path, facts: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts))
    return file.parent


def test_a_published_model_says_what_it_took(tmp_path: Path) -> None:
    facts = {"provenance": {"hours": 1.5, "steps": 400}}
    folder = write(tmp_path / "shelf/superres/photo/3/manifest.json", facts)
    assert before(folder) == [("superres/photo/3", 1.5, 400)]


def test_weights_are_told_of_by_the_run_beside_them_and_by_those_before_it(tmp_path: Path) -> None:
    facts = {"seconds": 1800, "steps": 90, "before": [["inpaint/photo/1", 1.7, 5425]]}
    folder = write(tmp_path / "runs/inpaint_photo/inpaint/run.json", facts)
    found = before(folder / "weights.weights.h5")
    assert found == [("inpaint/photo/1", 1.7, 5425), ("inpaint", 0.5, 90)]
    again = write(tmp_path / "again/run.json", {"seconds": 3600, "steps": 200, "before": found})
    assert before(again / "weights.weights.h5") == [*found, ("again", 1.0, 200)]


def test_a_kit_says_what_went_before_and_was_no_run_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "start/superres_photo/run.json", {"before": [["superres/photo/3", 1.0, 4375]]})
    assert before(folder / "x4.npz") == [("superres/photo/3", 1.0, 4375)]


def test_what_says_nothing_of_itself_took_nothing_that_is_known(tmp_path: Path) -> None:
    assert before(tmp_path) == []
    assert before(tmp_path / "teacher.npz") == []
    # As runs were written down until they told of what was before them.
    assert earlier({"seconds": 10, "steps": 3}) == []
