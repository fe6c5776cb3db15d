"""Without a running service, the README's pictures cannot be made, and the error says so."""

from __future__ import annotations

import sys

import pytest

from scripts import readme_pictures


def test_without_a_service_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on port 1.
    monkeypatch.setattr(sys, "argv", ["readme_pictures", "results", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit, match=r"no service at http://127\.0\.0\.1:1") as ended:
        readme_pictures.main()
    assert "\n" not in str(ended.value)
