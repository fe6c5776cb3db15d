"""The README's pictures: what it says of them, and the error without a running service."""

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


@pytest.mark.parametrize("name", ["galaxies", "enlarged", "removed", "cutout", "styles"])
def test_the_readme_shows_each_picture(name: str) -> None:
    readme = readme_pictures.README.read_text("utf-8")
    shown = readme[readme.index(readme_pictures.BEGIN) : readme.index(readme_pictures.END)]
    assert f"(docs/images/{name}.jpg)" in shown
    assert (readme_pictures.FOLDER / f"{name}.jpg").is_file()
