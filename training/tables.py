"""Tables of figures, before a manifest or a terminal shows them, and what is said while they are measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
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


def tell(what: str) -> None:
    """Say what is measured now: the whole of it takes many minutes."""
    print(f"measuring: {what}", file=sys.stderr, flush=True)
