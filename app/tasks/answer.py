"""What a task hands back, before it becomes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.imaging.picture import Picture


@dataclass(frozen=True, slots=True)
class Answer:
    """`model` is a manifest's id, empty where no model was used; `applied` what was decided for the caller; `seconds`
    spent by stage.

    Where there is a `table`, it is the answer, as JSON, and `picture` what it is about.
    """

    picture: Picture
    model: str
    applied: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    table: dict[str, Any] | None = None
