"""Curves of a training's log, and one line where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts import loss_curves


def test_a_curve_has_the_mean_of_each_twelfth(tmp_path: Path) -> None:
    folder = tmp_path / "dcgan_digits/dcgan"
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": step / 10} for step in range(1, 25)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = loss_curves.chart(folder, ["loss"])
    assert 'title "dcgan_digits: loss"' in drawn
    assert '"steps" 0 --> 24' in drawn
    assert drawn.count(",") == loss_curves.POINTS - 1


@pytest.mark.parametrize("content", [None, "", "words\n"])
def test_a_folder_without_a_log_is_one_line(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    monkeypatch.setattr(sys, "argv", ["loss_curves", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"no log in {tmp_path}") as ended:
        loss_curves.main()
    assert "\n" not in str(ended.value)
