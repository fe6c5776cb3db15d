"""The data packs, where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.data.packs import Packs


@pytest.fixture(scope="session")
def packs() -> Packs:
    """The folder of data packs that RESTORE_DATA_PACKS names; without one the test is skipped."""
    folder = os.environ.get("RESTORE_DATA_PACKS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no data packs: RESTORE_DATA_PACKS names no folder")
    return Packs(folder)
