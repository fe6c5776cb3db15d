"""Suggestions for unknown form fields."""

from __future__ import annotations

import pytest

from app.api.forms import ALIASES, form_class, suggest_field
from app.tasks import TASKS

FIELDS = {name for task in TASKS for name in ("image", *task.pictures, *form_class(task).model_fields)}


def test_aliases_are_other_names_of_existing_fields() -> None:
    aliases = [alias for names in ALIASES.values() for alias in names]
    assert set(ALIASES) <= FIELDS
    assert len(aliases) == len(set(aliases))
    assert FIELDS.isdisjoint(aliases)


@pytest.mark.parametrize(
    ("name", "known", "suggestion"),
    [
        ("file", ["image", "mask"], "image"),
        ("mask-image", ["image", "mask"], "mask"),
        ("FILE", ["image"], "image"),
        ("factor", ["image", "scale"], "scale"),
        ("qualty", ["image", "quality"], "quality"),
        ("factor", ["image", "strength"], None),  # the endpoint has no scale
        ("xyz", ["image", "strength"], None),
    ],
)
def test_suggestion(name: str, known: list[str], suggestion: str | None) -> None:
    assert suggest_field(name, known) == (f" Did you mean `{suggestion}`?" if suggestion else "")
