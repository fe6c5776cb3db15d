"""Parses the subset of Dockerfile and .dockerignore syntax that this repository uses; refuses everything else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

KNOWN = (
    *("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "LABEL"),
    *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
)


class DockerfileError(ValueError):
    """The Dockerfile is invalid or uses syntax that this parser does not support."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction: its name, the flags `--name=value` after it, and the unexpanded rest of the line."""

    word: str
    flags: dict[str, str]
    body: str
    line: int


def parse(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile in order. Raises DockerfileError."""
    instructions = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        start = start or number
        if raw.rstrip().endswith("\\"):
            pending += raw.rstrip()[:-1].strip() + " "
            continue
        instructions.append(_instruction((pending + raw.strip()).strip(), start))
        pending, start = "", 0
    if pending:
        raise DockerfileError(f"line {start}: the last line ends with a continuation")
    if not instructions or next((entry.word for entry in instructions if entry.word != "ARG"), "") != "FROM":
        raise DockerfileError("a Dockerfile begins with FROM")
    return instructions


def _instruction(text: str, line: int) -> Instruction:
    word, _, rest = text.partition(" ")
    word, rest = word.upper(), rest.strip()
    if word not in KNOWN:
        raise DockerfileError(f"line {line}: {word} is not a known instruction")
    if not rest:
        raise DockerfileError(f"line {line}: {word} has no arguments")
    flags = {}
    while match := re.match(r"--([a-z-]+)(?:=(\S+))?\s+", rest):
        flags[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    return Instruction(word, flags, rest, line)


def parse_exec_form(body: str) -> list[str] | None:
    """Return the words of `["a", "b"]`, or None if `body` is a shell command. Raises DockerfileError."""
    if not body.startswith("["):
        return None
    try:
        words = json.loads(body)
    except json.JSONDecodeError:
        raise DockerfileError(f"invalid exec form: {body}") from None
    if not all(isinstance(word, str) for word in words):
        raise DockerfileError(f"an exec form must be a list of strings: {body}")
    return list(words)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with `$NAME`, `${NAME}` and `${NAME:-default}` replaced; an unknown name becomes empty."""

    def one(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return values.get(name) or match[2] or ""

    return re.sub(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))", one, text)


def parse_pairs(body: str) -> dict[str, str]:
    """Return the `NAME=value` of an ENV or LABEL. Raises DockerfileError for the old form without `=`."""
    found = re.findall(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)', body)
    if not found or re.sub(r'[\w.]+=("(?:[^"\\]|\\.)*"|\S*)', "", body).strip():
        raise DockerfileError(f"not NAME=value: {body}")
    return {name: value[1:-1] if value.startswith('"') else value for name, value in found}


def is_ignored(patterns: Iterable[str], path: str) -> bool:
    """Tell whether the relative `path` is excluded from the build context: the last matching pattern decides."""
    parts = path.split("/")
    below = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    out = False
    for line in patterns:
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        rule = _compile_pattern(pattern.lstrip("!").strip("/"))
        if any(rule.fullmatch(name) for name in below):
            out = not keep
    return out


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    text = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))
    return re.compile(text)
