"""The layout of the repository: packages, lock files, make targets, import contracts, import side effects."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"app", "models", "training", "scripts", "benchmarks"}
LOCKS = ("serve.txt", "dev.txt", "gpu.txt", "ray.txt")


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks, below ROOT."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def pins(lock: str) -> dict[str, set[str]]:
    """Return {name: versions} of a lock file: a universal one may hold a version for each range of Pythons."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / lock).read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix(" \\"))
            found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    return found


def test_no_module_is_named_utils_or_helpers() -> None:
    forbidden = {"utils", "util", "helpers", "helper", "common", "misc"}
    guilty = [path for path in tracked("*.py") if forbidden & {*path.relative_to(ROOT).parts[:-1], path.stem}]
    assert not guilty


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_hashes_and_no_urls(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.fullmatch(r"\S+==\S+( ;.*)? \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+", entry), entry[:80]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("serve.txt", ["cpu", "heif", "litert"]),
        ("dev.txt", ["cpu", "dev", "heif", "litert", "train"]),
        ("gpu.txt", ["gpu", "heif", "train"]),
        ("ray.txt", ["cpu", "heif", "litert", "ray"]),
    ],
)
def test_locks_satisfy_the_project_dependencies(lock: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    have = pins(lock)
    for line in wanted:
        requirement = Requirement(line)
        versions = have.get(canonicalize_name(requirement.name), set())
        assert versions, f"{lock} lacks {requirement.name}: make locks"
        for version in versions:
            assert version.removeprefix("==") in requirement.specifier, (
                f"{lock}: {requirement.name}{version}: make locks"
            )


def test_tests_use_the_versions_that_serve() -> None:
    serve, dev = pins("serve.txt"), pins("dev.txt")
    assert {name: dev.get(name) for name in serve} == serve


def test_replicas_and_their_tests_use_the_versions_that_serve() -> None:
    """`make test-ray` puts both locks into one environment."""
    ray, dev = pins("ray.txt"), pins("dev.txt")
    shared = ray.keys() & dev.keys()
    assert {name: ray[name] for name in shared} == {name: dev[name] for name in shared}
    assert pins("serve.txt").keys() <= shared


def test_importing_the_service_has_no_side_effects() -> None:
    """No TensorFlow, no Keras, no thread and no socket, whatever module of the service is imported."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in tracked("app/*.py", "models/*.py")
        if path.name != "serve_router.py"  # it imports Ray
    ]
    program = (
        "import importlib, socket, sys, threading\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, _: event in ('socket.bind', 'socket.connect') and opened.append(event))\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "heavy = [name for name in ('tensorflow', 'keras', 'jax', 'ray') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "assert not opened, opened\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_contracts_detect_violations(tmp_path: Path) -> None:
    """Run import-linter on a copy with forbidden imports, which it must report."""
    for path in [*tracked("app/*.py", "models/*.py", "training/*.py"), ROOT / ".importlinter"]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "app/imaging/picture.py").write_text("import fastapi\nimport tensorflow\nimport app.tasks.answer\n")
    (tmp_path / "app/unlisted").mkdir()
    (tmp_path / "app/unlisted/__init__.py").touch()
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    output = re.sub(r"\s+", " ", done.stdout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "app.imaging is not allowed to import app.tasks" in output
    assert "app is not allowed to import tensorflow" in output
    assert "app is not allowed to import fastapi" in output
    assert "app.unlisted" in output


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for target in re.findall(r"^\.PHONY: (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE):
        assert f"make {target} " in listed


def test_tests_mirror_the_tree() -> None:
    """The folders below tests/ are packages of the repository or kinds of tests."""
    folders = {
        path.relative_to(ROOT / "tests").parts[0] for path in tracked("tests/*.py") if path.parent != ROOT / "tests"
    }
    assert folders <= {*PACKAGES, "published", "contract", "property", "e2e", "docs"}


def test_tests_cannot_reach_the_network() -> None:
    with socket.socket() as client, pytest.raises(RuntimeError, match="without network"):
        client.connect(("192.0.2.1", 80))
