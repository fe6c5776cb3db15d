"""Prints the figures of a benchmark and saves them with the commit and the machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "results"


def report(name: str, figures: dict[str, float | int | str], *, record: bool = True) -> None:
    """Print `figures` and, if `record`, write them to `benchmarks/results/<name>-<time>.json`."""
    for key, value in figures.items():
        print(f"{key:<32} {value:.3f}" if isinstance(value, float) else f"{key:<32} {value}")
    if not record:
        return
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False).stdout.strip()
    now = datetime.datetime.now(datetime.UTC)
    document = {
        "when": now.isoformat(timespec="seconds"),
        "commit": commit,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **figures,
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}-{now:%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(FOLDER.parent.parent)}")
