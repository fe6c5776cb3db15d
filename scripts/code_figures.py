"""Print figures of the source code as a Markdown table: sizes, docstrings, import cycles, number of tests.

    python -m scripts.code_figures [TREE]

`TREE` is the root of a checkout, by default this one. Nothing is imported: the files are parsed. Functions include
methods and nested functions; their length is from `def` to the last line, without decorators. Public are names without
a leading underscore in the body of a module or of a public class, and their docstrings. An import cycle is a set of
modules that import each other at module level; imports under `if TYPE_CHECKING` and inside functions do not count.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("app", "models", "training")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Public = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A parsed file: its dotted name, its path from the root, its lines and its syntax tree."""

    name: str
    path: str
    lines: int
    tree: ast.Module


def modules(root: Path, package: str) -> list[Module]:
    """Return the modules of `package` below `root`, sorted by path."""
    found = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text("utf-8")
        found.append(Module(name, str(path.relative_to(root)), len(text.splitlines()), ast.parse(text)))
    return found


def functions(module: Module) -> Iterator[tuple[int, str]]:
    """Yield length and place (`path:name`) of each function of `module`."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{module.path}:{node.name}"


def public(body: list[ast.stmt]) -> Iterator[Public]:
    """Yield the public functions and classes of `body`, and the public methods of its public classes."""
    for node in body:
        if isinstance(node, Public) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def imports(module: Module, known: set[str]) -> set[str]:
    """Return which of the `known` modules `module` imports at module level."""
    found = set()
    for node in _imports_at_load(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module and not node.level:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in known else node.module for name in names}
    return (found & known) - {module.name}


def _imports_at_load(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements below `node` that run when the module is imported."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif not isinstance(node, Function):
        children: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children = node.orelse
        for child in children:
            yield from _imports_at_load(child)


def largest_cycle(graph: Mapping[str, set[str]]) -> int:
    """Return how many nodes of `graph` the largest set holds in which each reaches each other; 0 without a cycle."""
    reached = {node: _reachable(graph, node) for node in graph}
    sizes = [sum(node in reached[other] for other in found) for node, found in reached.items() if node in found]
    return max(sizes, default=0)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.get(node, ())
    return found


def count_tests(root: Path) -> int:
    """Return the number of functions named `test_…` in the files of `tests` named `test_….py`."""
    return sum(
        isinstance(node, Function) and node.name.startswith("test_")
        for module in modules(root, "tests")
        if Path(module.path).name.startswith("test_")
        for node in ast.walk(module.tree)
    )


def figures(found: list[Module], cycle: int) -> dict[str, str]:
    """Return the figures of some modules by name, as text."""
    lengths = sorted(length for module in found for length, _ in functions(module))
    longest, place = max(pair for module in found for pair in functions(module))
    largest = max(found, key=lambda module: module.lines)
    documented = [bool(ast.get_docstring(node)) for module in found for node in public(module.tree.body)]
    return {
        "modules": str(len(found)),
        "lines": str(sum(module.lines for module in found)),
        "longest file": f"{largest.path}, {largest.lines} lines",
        "longest function": f"{place}, {longest} lines",
        "function length, median": f"{statistics.median(lengths):g} lines",
        "function length, 90th percentile": f"{lengths[(len(lengths) * 9 - 1) // 10]} lines",
        "public functions and classes": str(len(documented)),
        "with a docstring": f"{sum(documented) / len(documented):.0%}",
        "modules in the largest import cycle": str(cycle),
    }


def table(root: Path) -> str:
    """Return the figures of the tree at `root` as a Markdown table, with the number of tests below."""
    packages = {name: modules(root, name) for name in PACKAGES}
    everything = [module for found in packages.values() for module in found]
    known = {module.name for module in everything}
    graph = {module.name: imports(module, known) for module in everything}
    columns = {
        name: figures(found, largest_cycle({key: edges for key, edges in graph.items() if key.split(".")[0] == name}))
        for name, found in packages.items()
    }
    columns["all"] = figures(everything, largest_cycle(graph))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(column[name] for column in columns.values()) + " |" for name in columns["all"]
    ]
    return "\n".join([*lines, "", f"Test functions: {count_tests(root)}"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent, help="checkout")
    print(table(parser.parse_args().tree))


if __name__ == "__main__":
    main()
