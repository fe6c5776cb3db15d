"""The README's pictures need a service, and say so."""

from __future__ import annotations

import sys

import pytest

from scripts import readme_pictures


def test_without_a_service_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 1 of this machine: nobody listens there.
    monkeypatch.setattr(sys, "argv", ["readme_pictures", "results", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit, match=r"http://127\.0\.0\.1:1 does not answer") as ended:
        readme_pictures.main()
    assert "\n" not in str(ended.value)
