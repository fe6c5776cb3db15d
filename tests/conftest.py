"""Fixtures that the tests of several packages use, the seed of every test, and the rule that a test that imports
TensorFlow is marked `tf`."""

from __future__ import annotations

import ast
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import structlog

from models.onednn import enable_onednn
from tests.model_repository import tiny_repository
from tests.offline import offline

enable_onednn()  # as the service and the training do, before a test imports TensorFlow

# A deadline would be a wall time, and fail on a busy machine.
hypothesis.settings.register_profile("restore", deadline=None)
hypothesis.settings.load_profile("restore")

__all__ = ["offline", "quiet", "tiny_repository"]

IMPORTERS = {"tf", "data", "ray"}
"""Marks of tests that may import TensorFlow: `make unit` leaves them out."""
ADVICE = "This imports TensorFlow. Mark it with `pytest.mark.tf`, or import TensorFlow in the function that needs it."


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Send the service's log lines through `logging`, where pytest keeps them and shows those of a failed test."""
    # Plain, as the service's own: a traceback that shows every array takes seconds, in which the device does nothing.
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    processors: list[structlog.types.Processor] = [structlog.processors.add_log_level, renderer]
    structlog.configure(processors=processors, logger_factory=structlog.stdlib.LoggerFactory())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "not tf and not …"`, do not even import files with these marks: it takes seconds (TensorFlow)."""
    left_out = set(re.findall(r"\bnot (\w+)", config.option.markexpr))
    if re.fullmatch(r"not \w+( and not \w+)*", config.option.markexpr) and collection_path.match("test_*.py"):
        return not left_out.isdisjoint(marks_of_file(collection_path.read_text("utf-8"))) or None
    return None


def marks_of_file(source: str) -> set[str]:
    """Return the marks that a file of tests sets with `pytestmark`, alone or in a list."""
    found: set[str] = set()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            found.update(re.findall(r"\bpytest\.mark\.(\w+)", ast.unparse(statement.value)))
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-randomly change the order of tests only: its seeds would be others in each run."""
    config.option.randomly_reset_seed = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed every test alike: untrained weights of a network decide whether it stays under a bound."""
    random.seed(0)  # keras draws the seeds of its initializers from here
    np.random.seed(0)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Fail a file of tests whose import imports TensorFlow, without the mark `tf`."""
    before = "tensorflow" in sys.modules
    report = yield
    if (
        "tensorflow" in sys.modules
        and not before
        and isinstance(collector, pytest.Module)
        and not _may_import(collector)
    ):
        report.outcome, report.longrepr = "failed", f"{collector.nodeid}: {ADVICE}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note whether TensorFlow is there before a test and its fixtures."""
    item.stash[_IMPORTED_BEFORE] = "tensorflow" in sys.modules
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that imports TensorFlow without the mark `tf`: it belongs to another target than `make unit`."""
    result = yield
    if "tensorflow" in sys.modules and not item.stash[_IMPORTED_BEFORE] and not _may_import(item):
        pytest.fail(ADVICE)
    return result


def _may_import(node: pytest.Collector | pytest.Item) -> bool:
    return not IMPORTERS.isdisjoint(mark.name for mark in node.iter_markers())


_IMPORTED_BEFORE = pytest.StashKey[bool]()
