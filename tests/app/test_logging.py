from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, warnings
import structlog
from app import logging as configuration

configuration.configure("json")
for name in ("absl", "tensorflow", "uvicorn.error"):
    logging.getLogger(name).info("Started server process")
    logging.getLogger(name).warning("from %s", name)
warnings.warn("from Python")
structlog.get_logger("app.engine").info("own", model="a")
"""


def test_other_libraries_log_from_warnings_on_in_the_same_format() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    *others, warning, own = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(one["logger"], one["level"], one["event"]) for one in others] == [
        (name, "warning", f"from {name}") for name in ("absl", "tensorflow", "uvicorn.error")
    ]
    assert warning["logger"] == "py.warnings"
    assert "UserWarning: from Python" in warning["event"]
    assert (own["logger"], own["event"], own["model"]) == ("app.engine", "own", "a")
