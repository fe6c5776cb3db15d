"""The fenced blocks of README.md and docs/, and which of their commands a test runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):8000")

NOT_RUN = {
    r"^make (serve|setup)\b": "installs an environment; tests/e2e/newcomer.sh runs `make serve` (make test-all)",
    r"^make (test|unit|check|test-all|test-ray)$": "would run this test in itself, or takes as long as it",
    r"^make (docs|bench|soak)\b": "writes to the repository, or measures for minutes",
    r"^(\w+=\S+ )?docker (compose|run)\b": "needs a container engine; `make test-image` runs the image",
    r"\bray start\b|RESTORE_ENGINE=ray": "needs several machines; tests/e2e/test_ray.py has two nodes (make test-ray)",
    r"-F method=optimize\b": "needs VGG19, which is not published; tests/app/tasks has a small model in its place",
    r"-m training publish\b": "writes to models/; tests/training/export/test_publish.py publishes elsewhere",
    r"-m training quantize\b": "takes minutes; tests/training/export/test_eight_bit.py quantizes a small model",
    r"-m training evaluate\b": "takes minutes; tests/training/evaluation computes the tables of small pictures",
    r"/path/to/": "names a folder that only the reader knows",
}
"""Commands that no test runs: a regular expression of the command, and the reason."""

SLOW = r"-m training (list|train|sheet|sample)\b|-F method=dcgan\b"
"""Commands that only `make test-all` runs; the time of a training is shortened."""

PROGRAMS = {
    "openapi-python-client": "tests/e2e/test_generated_client.py",
    "npx": "none: it downloads openapi-typescript",
    "promtool": "tests/app/api/test_metrics.py",
}
"""Programs from outside the lock files, and the test that runs them where they are installed."""

DATA = {"json": "parsed", "yaml": "parsed", "mermaid": "drawn by GitHub", "text": "output or a tree of files"}
"""Languages of blocks that are not programs."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the number of its first line there, its language ("" where none is given), its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Commands of a block of shell, in order, without comments and blank lines; `\\` at the end joins two lines."""
        lines = self.text.replace("\\\n", " ").splitlines()
        stripped = [re.sub(r"(^|\s+)# .*", "", line).strip() for line in lines]
        return [line for line in stripped if line]


def find_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page of Markdown in order. Raises ValueError where a fence is not closed."""
    found: list[Block] = []
    opened: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = re.match(r"\s*```\s*(\S*)", line)
        if fence and opened is None:
            opened, inside = (number, fence[1]), []
        elif fence and opened is not None:
            found.append(Block(page, *opened, "\n".join(inside) + "\n"))
            opened = None
        else:
            inside.append(line)
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block is not closed")
    return found


def is_slow(command: str) -> bool:
    """Whether only `make test-all` runs this command."""
    return re.search(SLOW, command) is not None


def runs_here(command: str) -> bool:
    """Whether `make test` runs this command."""
    return not (reason_not_run(command) or is_slow(command) or needs_program(command))


def needs_program(command: str) -> bool:
    """Whether this command needs a program from outside the lock files."""
    return command.split()[0] in PROGRAMS


def reason_not_run(command: str) -> str:
    """Return why no test runs this command; "" where one does."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), "")
