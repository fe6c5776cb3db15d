"""Read a Dockerfile and a .dockerignore as the builder does, as far as ours use them; refuse what is beyond that."""

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
    """A Dockerfile that a builder would refuse, or that says more than this reader understands."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """`flags` are the `--name=value` after the word; `body` is what follows them, not yet expanded."""

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
        raise DockerfileError(f"line {start}: the last line is continued and nothing follows")
    if not instructions or next((entry.word for entry in instructions if entry.word != "ARG"), "") != "FROM":
        raise DockerfileError("a Dockerfile begins with FROM")
    return instructions


def _instruction(text: str, line: int) -> Instruction:
    word, _, rest = text.partition(" ")
    word, rest = word.upper(), rest.strip()
    if word not in KNOWN:
        raise DockerfileError(f"line {line}: {word} is not an instruction that this reader knows")
    if not rest:
        raise DockerfileError(f"line {line}: {word} says nothing")
    flags = {}
    while match := re.match(r"--([a-z-]+)(?:=(\S+))?\s+", rest):
        flags[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    return Instruction(word, flags, rest, line)


def exec_form(body: str) -> list[str] | None:
    """Return the words of `["a", "b"]`, or None where `body` is for a shell."""
    if not body.startswith("["):
        return None
    try:
        words = json.loads(body)
    except json.JSONDecodeError:
        raise DockerfileError(f"not an exec form: {body}") from None
    if not all(isinstance(word, str) for word in words):
        raise DockerfileError(f"an exec form holds strings: {body}")
    return list(words)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with `$NAME`, `${NAME}` and `${NAME:-default}` replaced; an unknown name becomes empty."""

    def one(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return values.get(name) or match[2] or ""

    return re.sub(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))", one, text)


def pairs(body: str) -> dict[str, str]:
    """Return the `NAME=value` of an ENV or LABEL. Raises DockerfileError for the old form without `=`."""
    found = re.findall(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)', body)
    if not found or re.sub(r'[\w.]+=("(?:[^"\\]|\\.)*"|\S*)', "", body).strip():
        raise DockerfileError(f"not NAME=value: {body}")
    return {name: value[1:-1] if value.startswith('"') else value for name, value in found}


def ignored(patterns: Iterable[str], path: str) -> bool:
    """Return whether `path` (relative, with `/`) stays out of the build: the last pattern that fits it decides."""
    parts = path.split("/")
    below = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    out = False
    for line in patterns:
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        rule = _rule(pattern.lstrip("!").strip("/"))
        if any(rule.fullmatch(name) for name in below):
            out = not keep
    return out


def _rule(pattern: str) -> re.Pattern[str]:
    text = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
        text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))
    return re.compile(text)
