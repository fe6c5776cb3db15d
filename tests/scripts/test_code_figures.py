"""Figures of a small tree whose sizes, docstrings and import cycles are known."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from scripts import code_figures


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "app/__init__.py": "",
        "app/first.py": """
            from app import second

            def long():
                '''Documented.'''
                return second.short()

            class Thing:
                def method(self): ...
                def _hidden(self): ...
            """,
        "app/second.py": """
            from typing import TYPE_CHECKING
            import app.third
            if TYPE_CHECKING:
                from models.one import value

            def short(): ...
            """,
        "app/third.py": """
            try:
                from app.first import long
            except ImportError:
                long = None
            """,
        "models/one.py": """
            value = 1

            def read():
                from app import first
                return first
            """,
        "training/two.py": "def train(): ...\n",
        "tests/test_it.py": "def test_a(): ...\nclass TestMore:\n    async def test_b(self): ...\n",
        "tests/helpers.py": "def test_no_test(): ...\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def test_figures_of_a_tree(tree: Path) -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in code_figures.table(tree).splitlines()[2:-2])
    assert rows["modules"] == "4 | 1 | 1 | 6"
    assert rows["longest function"].startswith("app/first.py:long, 3 lines | models/one.py:read, 3 lines")
    assert rows["public functions and classes"] == "4 | 1 | 1 | 6"  # long, Thing, method, short
    assert rows["with a docstring"].startswith("25% | 0% | 0%")


def test_only_imports_at_module_level_make_a_cycle(tree: Path) -> None:
    # first, second and third import each other; models.one imports app in a function, and is imported for types only.
    assert "| modules in the largest import cycle | 3 | 0 | 0 | 3 |" in code_figures.table(tree)


def test_tests_are_counted_in_test_files_only(tree: Path) -> None:
    assert code_figures.count_tests(tree) == 2


def test_a_tree_without_cycles_has_none() -> None:
    assert code_figures.largest_cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == 0
    assert code_figures.largest_cycle({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == 2
