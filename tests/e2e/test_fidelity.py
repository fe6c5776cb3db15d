"""Nothing is lost without a word, and `docs/fidelity.md` says exactly what is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests import fidelity
from tests.app.api.service import serving


@pytest.fixture(scope="module")
def cells() -> Iterator[list[fidelity.Cell]]:
    with serving() as service:
        yield list(fidelity.cells(service))


@pytest.mark.integration
def test_there_are_enough(cells: list[fidelity.Cell]) -> None:
    assert len(cells) >= 300
    assert len({(cell.operation, cell.kind.name, cell.format) for cell in cells}) == len(cells)


@pytest.mark.integration
def test_what_is_not_kept_is_what_was_known_in_advance(cells: list[fidelity.Cell]) -> None:
    wrong = {
        f"{cell.operation} {cell.kind.name} {cell.format}": (cell.changes, cell.faults)
        for cell in cells
        if cell.faults or cell.changes != fidelity.expected(cell.operation, cell.kind, cell.form)
    }
    assert not wrong


@pytest.mark.integration
def test_the_document_is_what_the_service_does(cells: list[fidelity.Cell]) -> None:
    assert fidelity.PAGE.read_text("utf-8") == fidelity.document(cells), (
        "docs/fidelity.md is out of date: python -m tests.fidelity"
    )


def test_the_check_sees_losses() -> None:
    """A cell is not kept by default: other pixels, a lost profile, tag or packet are each seen."""
    kind = next(kind for kind in fidelity.kinds() if kind.name == "EXIF + ICC + XMP, TIFF")
    seen = fidelity.read_file(kind.data, "tiff")
    assert fidelity._changes(kind, seen) == (set(), [])
    without = fidelity.Seen(seen.samples[::-1], None, seen.tags | {"Make": None}, None)
    assert fidelity._changes(kind, without)[1] == ["profile"]
    faults = fidelity._content_faults(kind, without, "tiff", fidelity.OPERATIONS["denoise"])
    assert [fault.split()[0] for fault in faults] == ["pixels", "tags", "XMP"]
    deep = fidelity.Seen(seen.samples.astype(np.uint16) * 257, seen.profile, seen.tags, seen.xmp)
    assert fidelity._changes(kind, deep)[1] == ["16 bit"]
