"""Every fenced block of README.md and docs/ runs, or says why it cannot.

The blocks of a page run in order, in one temporary folder with the files of the repository, against one service with
the published models. `tests/docs/blocks.py` lists the commands that are not run, with the reasons.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from app.api.facades import FACADES
from app.main import create_app
from app.settings import Settings
from tests.app.api.service import running
from tests.docs.blocks import (
    ADDRESS,
    DATA,
    NOT_RUN,
    PAGES,
    ROOT,
    Block,
    find_blocks,
    is_slow,
    needs_program,
    reason_not_run,
    runs_here,
)

BLOCKS = [block for page in PAGES for block in find_blocks(page)]
COMMANDS = [command for block in BLOCKS if block.language == "sh" for command in block.commands]
SLOW_PAGES = sorted({block.page for block in BLOCKS if block.language == "sh" and any(map(is_slow, block.commands))})
RUNNABLE = re.compile(r"^([a-z]\w*=\$\()?(curl|\.venv/bin/python|python3?) ")
PYTHON_PROGRAMS = {
    "restore_client": "made by openapi-python-client: tests/e2e/test_generated_client.py",
    "base64, openai": "not installed with the tests: tests/app/api/facades/test_openai.py",
}
"""Modules that a block of Python may import and that the environment of the tests lacks."""


def imports_outside(block: Block) -> bool:
    return any(re.search(rf"^(from|import) {module}\b", block.text, re.MULTILINE) for module in PYTHON_PROGRAMS)


def runs(block: Block) -> bool:
    """Whether `make test` runs something of this block."""
    if block.language == "python":
        return not imports_outside(block)
    return block.language == "sh" and any(map(runs_here, block.commands))


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a service with the published models, which are loaded when they are first used."""
    settings = Settings(
        models_dir=(ROOT / "models/published",),
        data_dir=tmp_path_factory.mktemp("data"),
        preload=(),
        reload_s=0,
        decoders=0,
        facades=tuple(FACADES),
    )
    with running(create_app(settings)) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds links to the files of the repository; what a block writes stays in it."""
    for name in ("README.md", "docs", "models", "training", "monitoring"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    return tmp_path


def run(command: list[str], folder: Path, block: Block, seconds: int = 240) -> None:
    environment = os.environ | {"CURL_HOME": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds
    )
    assert done.returncode == 0, f"{block.name}: {command[-1]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def run_shell(lines: list[str], folder: Path, block: Block, seconds: int = 240) -> None:
    # One shell for a block: a line may set a variable for the next.
    run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], folder, block, seconds)
    for name in re.findall(r" (?:-o|--output) (\S+)", "\n".join(lines)):
        written = folder / name.strip("\"'")
        if written.suffix == ".json":
            json.loads(written.read_text("utf-8"))
        elif written.suffix in {".png", ".jpg", ".webp", ".tiff", ".avif"}:
            with Image.open(written) as picture:
                picture.load()


@pytest.mark.tf
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if runs(block)}), ids=lambda page: page.name)
def test_blocks_run(page: Path, address: str, folder: Path) -> None:
    for block in filter(runs, find_blocks(page)):
        here = replace(block, text=ADDRESS.sub(address, block.text))
        if here.language == "python":
            run([sys.executable, "-c", here.text], folder, block)
        else:
            run_shell([command for command in here.commands if runs_here(command)], folder, block)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.tf
@pytest.mark.parametrize("page", SLOW_PAGES, ids=lambda page: page.name)
def test_slow_commands_run(page: Path, address: str, folder: Path) -> None:
    if not os.environ.get("RESTORE_DATA_PACKS"):
        pytest.skip("set RESTORE_DATA_PACKS to the folder of data packs")
    for block in find_blocks(page):
        for command in block.commands if block.language == "sh" else ():
            if is_slow(command) and not reason_not_run(command):
                here = re.sub(r"--hours \S+", "--hours 0.005", ADDRESS.sub(address, command))
                run_shell([here], folder, block, seconds=600)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_each_block_is_run_or_listed(block: Block) -> None:
    if block.language == "sh":
        assert block.commands, f"{block.name} holds no command"
        for command in block.commands:
            known = RUNNABLE.search(command) or needs_program(command) or reason_not_run(command)
            assert known, (
                f"{block.name}: no test runs `{command}`, and NOT_RUN in tests/docs/blocks.py does not list it"
            )
    elif block.language == "json" and "…" not in block.text:
        json.loads(block.text)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "":
        first = [line.split()[0] for line in block.text.splitlines() if line.strip()]
        hidden = {"curl", "python", "python3", "make", "docker", "import", "from"} & {*first}
        assert not hidden, f"{block.name} holds commands: give it a language"
    else:
        assert block.language in {"python", *DATA}, f"{block.name}: no test knows what to do with {block.language}"


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_each_exception_is_needed(pattern: str) -> None:
    assert any(re.search(pattern, command) for command in COMMANDS)


def test_a_block_that_fails_fails_its_test(tmp_path: Path, folder: Path) -> None:
    page = ROOT / "docs/jobs.md"
    for line in ("false", "curl http://127.0.0.1:1/denoise", "python3 -c 'import nowhere'"):
        with pytest.raises(AssertionError, match=r"jobs\.md:3"):
            run_shell([line], folder, Block(page, 3, "sh", line))
    page = tmp_path / "page.md"
    page.write_text("```sh\n# a comment\ncurl a \\\n  b\n\nrm c\n```\n\ntext\n\n```\ntree\n```\n")
    shell, tree = find_blocks(page)
    assert shell.commands == ["curl a    b", "rm c"]
    assert (shell.language, tree.language, tree.line) == ("sh", "", 11)
    assert not RUNNABLE.search("rm c")
    assert not reason_not_run("rm c")
    page.write_text("```sh\ncurl a\n")
    with pytest.raises(ValueError, match="not closed"):
        find_blocks(page)
