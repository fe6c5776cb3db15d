"""The documentation says what is there, and all of it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from app.api import problems
from app.api.facades import FACADES
from app.engine.local import LocalEngine
from app.engine.registry import Registry
from app.main import create_app
from app.settings import Settings, variable
from scripts import models_page
from tests.engines import Loader

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(text: str) -> list[str]:
    """Return the lines of every block of shell in `text`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def test_the_readme_begins_with_its_two_commands_and_a_curl() -> None:
    commands = [shlex.split(line, comments=True) for line in fenced(README)]
    assert commands[:2] == [["make", "serve"], ["make", "test"]]
    assert commands[2][0] == "curl"
    # A title, one paragraph on what it is, then the commands.
    assert re.match(r"# \w+\n\n([^\n`#]+\n)+\n```sh\nmake serve", README)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    doors = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text("utf-8")
    code = "\n".join([*fenced(text), *re.findall(r"`([^`\n]+)`", text)])
    for door in re.findall(r"\bmake ([a-z][a-z-]*)", code):
        assert door in doors, f"make {door}"
    for module in re.findall(r"python3? -m ([\w.]+)", code):
        assert find_spec(module), f"python -m {module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor and other.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", other.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}, target


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/examples.md"], ids=lambda page: page.name)
def test_files_that_the_examples_send_are_there(page: Path) -> None:
    sent = re.findall(r"(?:image|mask)=@(\S+)", "\n".join(fenced(page.read_text("utf-8"))))
    assert sent
    for name in sent:
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{variable(name)}`" in (ROOT / "docs/configuration.md").read_text("utf-8")


def test_settings_that_the_pages_name_exist() -> None:
    known = {variable(name) for name in Settings.model_fields}
    outside = {"RESTORE_DATA_PACKS", "RESTORE_FUZZ", "RESTORE_PUBLISH", "RESTORE_WEIGHTS"}
    files = [*PAGES, ROOT / "docker-compose.yml", ROOT / "Dockerfile", ROOT / "Makefile"]
    for path in files:
        assert set(re.findall(r"\bRESTORE_[A-Z_]+[A-Z]\b", path.read_text("utf-8"))) <= known | outside, path


@pytest.mark.parametrize("row", problems.TABLE, ids=lambda row: row.slug)
def test_every_problem_is_documented(row: problems.Problem) -> None:
    assert row.slug in (ROOT / "docs/errors.md").read_text("utf-8")


def test_every_endpoint_is_documented() -> None:
    def walk(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
        for route in routes:
            path = prefix + getattr(route, "path", "")
            inner = getattr(getattr(route, "original_router", route), "routes", None)
            if inner:
                yield from walk(inner, path)
            else:
                yield from ((method, path) for method in getattr(route, "methods", None) or () if method != "HEAD")

    engine = LocalEngine(Registry([], Loader()))
    settings = Settings(models_dir=("nowhere",), facades=tuple(FACADES))
    found = set(walk(create_app(settings, engine=engine).routes))
    assert ("POST", "/denoise") in found
    integrations = (ROOT / "docs/integrations.md").read_text("utf-8")
    for method, path in found:
        text = integrations if path.startswith(tuple(facade.prefix for facade in FACADES.values())) else README
        if not path.startswith(("/docs/", "/page/", "/favicon")) and path != "/":
            assert f"`{method} {path}`" in text or path in text, f"{method} {path}"


def test_pages_made_from_the_manifests_are_up_to_date() -> None:
    manifests = models_page.newest(models_page.REPOSITORY)
    assert models_page.PAGE.read_text("utf-8") == models_page.page(manifests), "make docs"
    assert models_page.readme(README, manifests) == README, "make docs"
    text = models_page.EVALUATION.read_text("utf-8")
    assert models_page.evaluation(text, manifests) == text, "make docs"


@pytest.mark.parametrize(("module", "page"), [("app.settings", "configuration.md"), ("app.api.problems", "errors.md")])
def test_pages_made_from_the_code_are_up_to_date(module: str, page: str) -> None:
    made = subprocess.run([sys.executable, "-m", module], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert (ROOT / "docs" / page).read_text("utf-8") == made, f"python -m {module} > docs/{page}"


def test_decisions_have_numbers_of_their_own_and_say_why() -> None:
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert len({path.name[:4] for path in records}) == len(records)
    for path in records:
        text = path.read_text("utf-8")
        for heading in ("Status:", "## Context", "## Decision", "## Consequences"):
            assert heading in text, f"{path.name} lacks {heading}"


def test_files_of_the_glossary_exist() -> None:
    tables = [line for line in (ROOT / "docs/glossary.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    paths = {
        path
        for line in tables
        for path in re.findall(r"`((?:app|models|training)/[\w/]+(?:\.py|/))`", line.split(" | ")[-1])
    }
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path


def test_nothing_tracked_names_a_machine_or_a_registry() -> None:
    # Written in parts, so that this file does not find itself.
    forbidden = [
        "/wor" + "k/",
        "/tm" + "p/w/",
        "/roo" + "t/",
        "pyp" + "i.org",
        "pythonhos" + "ted.org",
    ]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    guilty = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file() or b"\0" in path.read_bytes()[:8000]:
            continue
        text = path.read_text("utf-8", errors="replace")
        guilty += [f"{name}: {word}" for word in forbidden if word in text]
    assert not guilty
