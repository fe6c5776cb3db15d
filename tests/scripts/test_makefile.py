"""What `make` says about the interpreter in PYTHON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD = f"""#!{sys.executable}
import platform, sys
sys.version_info, platform.python_version = (3, 9, 2, "final", 0), lambda: "3.9.2"
exec(sys.argv[2])
"""
CRASHES = "#!/bin/sh\nkill -SEGV $$\n"


def make_environment(folder: Path, python: str) -> list[str]:
    """Let `make` create an environment with `python`; return what it printed, without make's own last line."""
    target = folder / "venv/.made"
    command = ["make", "-C", str(ROOT), f"VENV={target.parent}", f"PYTHON={python}", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert not target.parent.exists()
    return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make")]


@pytest.mark.parametrize(("content", "mode"), [(None, 0), (CRASHES, 0o755), (OLD, 0o644)])
def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path, content: str | None, mode: int) -> None:
    python = tmp_path / "python3"
    if content is not None:
        python.write_text(content)
        python.chmod(mode)
    [line] = make_environment(tmp_path, str(python))
    assert line.startswith(f"{python} does not run")
    assert "make PYTHON=" in line


def test_an_interpreter_that_is_too_old_is_named_with_its_version(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(OLD)
    python.chmod(0o755)
    [line] = make_environment(tmp_path, str(python))
    assert line.startswith(f"{python} is Python 3.9.2")
    assert "3.11 to 3.13" in line


def test_without_any_interpreter_it_is_said_what_to_do(tmp_path: Path) -> None:
    [line] = make_environment(tmp_path, "")
    assert "3.11 to 3.13" in line
    assert "make PYTHON=" in line
