"""README.md and docs/ are easy to read as source: short lines, a short README, one spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, find_blocks

LINE = 120
README_WORDS = 1000
OWN_WORDS = [page for page in PAGES if page.name != "models.md"]
"""models.md holds texts of published manifests, which do not change."""
LINKS_ONLY = re.compile(r"(?:[-*] )?(?:!?\[[^]]*\]\([^)]*\)[\s,;.|·]*)+")
BRITISH = re.compile(
    r"\b(grey\w*|colour\w*|neighbour\w*|artefact\w*|licence\w*|metres?|behaviour\w*|centre\w*"
    r"|(?:normal|optim|initial|serial|recogn|organ)is(?:e|es|ed|ing|ation))\b"
)


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a page's lines outside of fenced blocks and tables."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*```", line):
            inside = not inside
        elif not inside and not re.match(r"\s*[|<]", line):
            yield number, line


def long_lines(text: str) -> list[int]:
    """Return the numbers of the lines of prose that are too long; a line of nothing but links may be."""
    return [number for number, line in prose(text) if len(line) > LINE and not LINKS_ONLY.fullmatch(line.strip())]


def british_words(text: str) -> list[str]:
    """Return the words of prose in British spelling; names of code (`licence`, a key of manifests) may have it."""
    return [word for _, line in prose(text) for word in BRITISH.findall(re.sub(r"`[^`]*`", "", line).lower())]


@pytest.mark.parametrize("page", OWN_WORDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    assert not long_lines(page.read_text("utf-8")), f"wrap these lines of {page.name} at {LINE} characters"


@pytest.mark.parametrize("page", OWN_WORDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_spelling_is_american(page: Path) -> None:
    assert not british_words(page.read_text("utf-8"))


def test_the_checks_of_lines_find_what_they_look_for() -> None:
    long = "word " * 25
    link = "[a](" + "b" * 120 + ")"
    assert long_lines(f"{long}\n\n| {long} |\n\n```\n{long}\n```\n\n* {link}, {link}\n{long} {link}\n") == [1, 10]
    assert british_words("Grey and `grey`, colours, analysis\n| grey |\n") == ["grey", "colours"]


def test_the_readme_is_short() -> None:
    """Counted as `wc -w` does, with code and tables."""
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= README_WORDS


def test_every_fence_is_closed() -> None:
    for page in PAGES:
        find_blocks(page)
