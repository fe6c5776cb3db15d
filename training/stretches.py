"""A model may be trained in several stretches, each from what the one before made: what all of them took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RUN = "run.json"
"""What a part's folder of results says of its training."""

Stretch = tuple[str, float, int]
"""(what was trained, hours, steps)."""


def before(source: Path) -> list[Stretch]:
    """Return the stretches that made `source`, what a training starts from: a published model's folder, or weights.

    Weights are told of by the run.json beside them. Nothing is known of what says nothing of itself.
    """
    try:
        if source.is_dir():
            made = json.loads((source / "manifest.json").read_text(encoding="utf-8"))["provenance"]
            return [("/".join(source.parts[-3:]), made["hours"], made["steps"])]
        run = json.loads((source.parent / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    # A kit has no run of its own, only what went before.
    own = [(source.parent.name, run["seconds"] / 3600, run["steps"])] if "steps" in run else []
    return [*earlier(run), *own]


def earlier(run: dict[str, Any]) -> list[Stretch]:
    """Return the stretches before a run, of which older ones say nothing."""
    return [(name, hours, steps) for name, hours, steps in run.get("before", [])]
