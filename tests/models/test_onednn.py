"""oneDNN is used on every x86 processor, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform

import pytest

from models.onednn import enable_onednn

NAME = "TF_ENABLE_ONEDNN_OPTS"


@pytest.mark.parametrize(
    ("machine", "before", "after"),
    [("x86_64", None, "1"), ("AMD64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None), ("arm64", "1", "1")],
)
def test_what_the_environment_says_counts(
    machine: str, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv(NAME, before or "")
    if before is None:
        monkeypatch.delenv(NAME)
    enable_onednn()
    assert os.environ.get(NAME) == after
