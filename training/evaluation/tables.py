"""Tables of figures, before a manifest or a terminal shows them, and the progress of measuring."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class ResultTable:
    """`columns` name the cells of every row; `command` reproduces the table."""

    title: str
    command: str
    columns: list[str]
    rows: list[list[str | float]]
    note: str = ""

    def text(self) -> str:
        """Return the table as Markdown, figures with two decimals (four below 1)."""

        def cell(value: str | float) -> str:
            if isinstance(value, str):
                return value
            return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"

        lines = [f"**{self.title}** (`{self.command}`)", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("|" + "---|" * len(self.columns))
        lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def report_progress(what: str) -> None:
    """Print what is measured now to standard error: an evaluation takes many minutes."""
    print(f"measuring: {what}", file=sys.stderr, flush=True)
