"""axe-core, which finds obstacles for people with disabilities in a page. It is fetched from npm, and not part of the
repository."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Browser

VERSION = "4.14.1"
GRAVE = ("serious", "critical")


def load(folder: Path) -> str:
    """Return axe-core's script, from `folder` if it is there, else from npm. Skips the test where there is neither."""
    script = folder / f"axe-{VERSION}.js"
    if not script.exists():
        if not shutil.which("npm"):
            pytest.skip(f"axe-core {VERSION} is not in {folder}, and there is no npm to fetch it with")
        command = ["npm", "pack", f"axe-core@{VERSION}", "--fetch-retries=0", "--fetch-timeout=20000", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            pytest.skip(f"npm cannot fetch axe-core {VERSION}: {done.stderr.strip()[-200:]}")
        with tarfile.open(folder / f"axe-core-{VERSION}.tgz") as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            script.write_bytes(member.read())
    return script.read_text("utf-8")


def grave_findings(browser: Browser, script: str) -> list[str]:
    """Return what axe-core calls serious or critical in the page as it is now, one line each."""
    found: list[dict[str, Any]] = browser.run(
        f"{script}; return axe.run(document, {{resultTypes: ['violations']}}).then(found => found.violations)"
    )
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary'].replace(chr(10), ' ')}"
        for rule in found
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]
