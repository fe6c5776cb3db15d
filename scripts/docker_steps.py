"""Runs the steps of the Dockerfile and the compose file in an empty folder, without a container engine.

`python -m scripts.docker_steps [--reuse VENV]` creates an empty folder per stage, copies the files that git tracks and
.dockerignore does not exclude, runs each RUN there, starts CMD with the environment of the image and the compose file,
waits for both health checks, and stops it. This finds missing files, unset variables, steps that need something the
image lacks, and writes outside the volumes. Steps that need a container engine (users, namespaces, capabilities) are
skipped with a message; of other images (Prometheus, Grafana), only their entries in the compose file are checked.
`--reuse` uses the installed packages of a virtual environment instead of installing them again.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from scripts.dockerfile import DockerfileError, Instruction, expand, is_ignored, parse, parse_exec_form, parse_pairs

ROOT = Path(__file__).resolve().parent.parent
# These would change the host, or need the users of a container.
ENGINE_ONLY = ("useradd", "groupadd", "adduser", "addgroup", "chown", "apt-get", "apk")
START_SECONDS = 300


class StepError(RuntimeError):
    """A step failed, and would fail in a container. The message names the step."""


class Stage:
    """A stage (FROM): a folder as its file system, and the state set by the instructions so far."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder = folder
        self.workdir = "/"
        self.user = "root"
        self.arguments: dict[str, str] = {}
        self.environment = {"PATH": "/usr/local/bin"}
        self.command: list[str] = []
        self.health: list[str] = []
        self.own: set[str] = set()
        interpreter = self.to_host("/usr/local/bin/python")
        interpreter.parent.mkdir(parents=True)
        # A script, not a link: with a link, Python would look for its library in the empty folder.
        interpreter.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} "$@"\n')
        interpreter.chmod(0o755)

    def to_host(self, path: str) -> Path:
        """Return the path on this host of the container's `path`."""
        return self.folder / os.path.normpath(os.path.join("/", self.workdir, path)).lstrip("/")  # noqa: PTH118

    def claim(self, path: str) -> None:
        """Mark the top folder of `path` as the container's, so that `localize` redirects it from now on."""
        top = os.path.normpath(os.path.join("/", self.workdir, path)).split("/")[1]  # noqa: PTH118
        if top and top != "tmp":
            self.own.add(top)

    def localize(self, text: str) -> str:
        """Return `text` with the container's absolute paths replaced by paths on this host."""
        tops = "|".join(sorted(map(re.escape, self.own | {"usr/local"})))
        return re.sub(rf"(?<![\w./-])/({tops})(?=[/:\s'\"]|$)", lambda match: f"{self.folder}/{match[1]}", text)

    def make_environment(self, extra: dict[str, str]) -> dict[str, str]:
        """Return the environment variables of a process in this stage."""
        values = {name: self.localize(value) for name, value in (self.environment | extra).items()}
        home = self.folder / "tmp"
        home.mkdir(exist_ok=True)
        values["PATH"] += ":/usr/bin:/bin"
        return values | {"HOME": str(home), "TMPDIR": str(home)}


def say(text: str) -> None:
    print(f"[docker] {text}", flush=True)


def list_tracked(root: Path) -> list[str]:
    """Return the files that git tracks, as in a clone. Untracked files could hide that one is missing."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
    return [path for path in listed.decode().split("\0") if path and (root / path).exists()]


def copy_context(root: Path, files: list[str], target: Path) -> None:
    """Copy the build context of `root` into `target`."""
    ignore = root / ".dockerignore"
    patterns = ignore.read_text().splitlines() if ignore.exists() else []
    for path in files:
        if not is_ignored(patterns, path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, target / path)


def copy(stage: Stage, sources: list[Path], destination: str) -> None:
    """Execute COPY: copy the content of folders, and files under their own or a new name. Raises StepError."""
    stage.claim(destination)
    target = stage.to_host(destination)
    many = len(sources) > 1 or destination.endswith("/")
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
        elif source.exists():
            into = target / source.name if many or target.is_dir() else target
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into)
        else:
            raise StepError(f"COPY: {source.name} is not in the build context (missing, not committed, or ignored)")


def run(stage: Stage, body: str, reuse: Path | None) -> None:
    """Execute RUN; skip commands in ENGINE_ONLY, and installations if `reuse` is given. Raises StepError."""
    words = parse_exec_form(body) or ["/bin/sh", "-euc", body]
    first = shlex.split(body)[0].rsplit("/", 1)[-1] if words[0] == "/bin/sh" else words[0]
    if first in ENGINE_ONLY:
        say(f"  skipped: {first} needs a container")
        return
    if reuse and " install " in body:
        locks = re.findall(r"-r\s+(\S+)", body)
        check_installed(reuse, [stage.to_host(lock) for lock in locks])
        link_packages(stage, reuse, shlex.split(body)[0])
        return
    values = stage.make_environment(stage.arguments)
    # This host's settings for its package index: a builder has its own.
    values |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http"))}
    done = subprocess.run([stage.localize(word) for word in words], cwd=stage.to_host("."), env=values, check=False)
    if done.returncode:
        raise StepError(f"RUN ended with {done.returncode}: {body}")


def check_installed(environment: Path, locks: list[Path]) -> None:
    """Raise StepError unless `environment` holds what `locks` pin for it."""
    program = (
        "import sys; from importlib.metadata import distributions\n"
        "from packaging.requirements import Requirement\n"
        "from packaging.utils import canonicalize_name as plain\n"
        "have = {plain(entry.name): entry.version for entry in distributions()}\n"
        "for line in sys.stdin:\n"
        "    wanted = Requirement(line.strip())\n"
        "    if wanted.marker is None or wanted.marker.evaluate():\n"
        "        version = have.get(plain(wanted.name), 'none')\n"
        "        if str(wanted.specifier) != '==' + version: print(f'{line.strip()} (has {version})')\n"
    )
    pins = "\n".join(
        line.removesuffix(" \\") for lock in locks for line in lock.read_text().splitlines() if "==" in line
    )
    python = environment / "bin/python"
    checked = subprocess.run([python, "-c", program], input=pins, text=True, capture_output=True, check=False)
    if checked.returncode or checked.stdout:
        raise StepError(f"--reuse: versions differ from the lock: {(checked.stdout or checked.stderr).strip()}")


def link_packages(stage: Stage, environment: Path, interpreter: str) -> None:
    """Make the packages of `environment` importable in the virtual environment of `interpreter`."""
    say(f"  reusing the packages of {environment}")
    packages = next((environment / "lib").glob("python*/site-packages"))
    own = next((stage.to_host(interpreter).parent.parent / "lib").glob("python*/site-packages"))
    if packages.parent.name != own.parent.name:
        raise StepError(f"--reuse: {packages.parent.name}, but this tree runs {own.parent.name}")
    (own / "reused.pth").write_text(f"{packages}\n")


def build(root: Path, area: Path, python: Path, reuse: Path | None) -> Stage:
    """Run the Dockerfile of `root` and return its last stage."""
    sent = area / "context"
    copy_context(root, list_tracked(root), sent)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for step in parse((root / "Dockerfile").read_text()):
        say(f"{step.word} {step.body}"[:150])
        if step.word == "FROM":
            image, _, name = step.body.partition(" AS ")
            if not image.startswith("python:"):
                raise DockerfileError(f"line {step.line}: only python images are supported, not {image}")
            wanted = image.removeprefix("python:").split("-")[0]
            version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.split()[
                1
            ]
            if not version.startswith(wanted):
                say(f"  using Python {version} instead of {wanted}")
            stage = Stage(area / f"stage{len(stages)}", python)
            stages[name or str(len(stages))] = stage
        elif stage is None:
            raise DockerfileError(f"line {step.line}: {step.word} before FROM is not supported")
        else:
            run_instruction(step, stage, stages, sent, reuse)
    assert stage is not None
    return stage


def run_instruction(step: Instruction, stage: Stage, stages: dict[str, Stage], sent: Path, reuse: Path | None) -> None:
    values = stage.arguments | stage.environment
    match step.word:
        case "ARG":
            name, _, default = step.body.partition("=")
            stage.arguments[name] = default
        case "ENV":
            stage.environment |= {name: expand(value, values) for name, value in parse_pairs(step.body).items()}
        case "WORKDIR":
            stage.claim(step.body)
            stage.workdir = os.path.normpath(os.path.join(stage.workdir, expand(step.body, values)))  # noqa: PTH118
            stage.to_host(".").mkdir(parents=True, exist_ok=True)
        case "COPY":
            *names, destination = shlex.split(expand(step.body, values))
            if "from" in step.flags:
                other = stages[step.flags["from"]]
                sources = [other.to_host(name) for name in names]
            else:
                sources = [sent / name for name in names]
            copy(stage, sources, destination)
        case "RUN":
            run(stage, step.body, reuse)
        case "USER":
            stage.user = step.body
        case "CMD" | "ENTRYPOINT":
            stage.command = parse_exec_form(step.body) or ["/bin/sh", "-c", step.body]
        case "HEALTHCHECK":
            _, _, test = step.body.partition("CMD ")
            stage.health = parse_exec_form(test.strip()) or ["/bin/sh", "-c", test]
        case _:
            pass


def interpolate(value: Any) -> Any:
    """Return a value of the compose file with its variables replaced; compose does this after parsing the YAML."""
    if isinstance(value, dict):
        return {key: interpolate(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [interpolate(entry) for entry in value]
    return expand(value, {}) if isinstance(value, str) else value


def read_compose_services(root: Path) -> dict[str, dict[str, Any]]:
    """Return the services of the compose file, with `${NAME:-default}` replaced as in an empty environment.

    Raises StepError for an undeclared volume, a missing file, or a missing lock file.
    """
    document = interpolate(yaml.safe_load((root / "docker-compose.yml").read_text()))
    services: dict[str, dict[str, Any]] = document["services"]
    for name, service in services.items():
        sources = {volume.split(":")[0] for volume in service.get("volumes", [])}
        ours = {source for source in sources if source.startswith(".")}
        missing = {source for source in ours if not (root / source).exists()}
        missing |= {source for source in sources - ours if source not in document.get("volumes", {})}
        build = service.get("build", {})
        lock = build.get("args", {}).get("LOCK") if isinstance(build, dict) else None
        if lock and not (root / "requirements" / lock).exists():
            missing.add(lock)
        if missing:
            raise StepError(f"compose: {name} needs missing files or volumes: {', '.join(sorted(missing))}")
    return services


def check_compose_config(root: Path) -> None:
    """Validate the compose file with the Docker client, if there is one. Raises StepError."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        say("skipped: docker compose config (no Docker client here)")
        return
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", "config", "--quiet"], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        raise StepError(f"docker compose config: {done.stderr.strip()}")
    say("docker compose config: valid")


def list_files(folder: Path, excluded: list[Path]) -> dict[Path, float]:
    return {
        path: path.stat().st_mtime
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(other) for other in excluded)
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def serve(stage: Stage, service: dict[str, Any]) -> None:
    """Start CMD as compose would, wait for both health checks, and stop it. Raises StepError."""
    if stage.user in ("root", "0"):
        raise StepError("the image would run as root")
    # A name without a value would be read from the environment, which is empty here.
    given = {name: str(value) for name, value in service.get("environment", {}).items() if value is not None}
    given["RESTORE_PORT"] = str(free_port())
    writable = [stage.folder / "tmp", *(stage.to_host(path.split(":")[0]) for path in service.get("tmpfs", []))]
    for volume in service.get("volumes", []):
        _, target, *mode = volume.split(":")
        stage.to_host(target).mkdir(parents=True, exist_ok=True)
        if "ro" not in mode:
            writable.append(stage.to_host(target))
    values = stage.make_environment(given)
    before = list_files(stage.folder, writable)
    command = [stage.localize(word) for word in stage.command]
    say(f"CMD {shlex.join(stage.command)}")
    found = shutil.which(command[0], path=values["PATH"])
    if not found:
        raise StepError(f"CMD: {command[0]} is not on the PATH of the image")
    process = subprocess.Popen([found, *command[1:]], cwd=stage.to_host("."), env=values, stdin=subprocess.DEVNULL)
    try:
        test = list(service.get("healthcheck", {}).get("test", []))
        for name, words in (("the image's", stage.health), ("compose's", test[1:] if test[:1] == ["CMD"] else test)):
            if words:
                wait_until_healthy(process, [stage.localize(word) for word in words], stage, values)
                say(f"{name} health check: healthy")
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        if code:
            raise StepError(f"after SIGTERM the service ended with exit code {code}, not 0")
        say("SIGTERM: exit code 0")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if service.get("read_only"):
        after = list_files(stage.folder, writable)
        changed = [str(path.relative_to(stage.folder)) for path in after if after[path] != before.get(path)]
        if changed:
            raise StepError(f"the container is read_only, but the service wrote {', '.join(sorted(changed)[:5])}")
        say("nothing was written outside volumes and tmpfs")


def wait_until_healthy(process: subprocess.Popen[bytes], test: list[str], stage: Stage, values: dict[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    found = shutil.which(test[0], path=values["PATH"]) or test[0]
    while True:
        done = subprocess.run([found, *test[1:]], cwd=stage.to_host("."), env=values, capture_output=True, check=False)
        if done.returncode == 0:
            return
        if process.poll() is not None:
            raise StepError(f"the service ended with {process.returncode} before it was healthy")
        if time.monotonic() > deadline:
            raise StepError(f"not healthy after {START_SECONDS} s: {done.stderr.decode().strip().splitlines()[-1:]}")
        time.sleep(0.5)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--reuse", type=Path, help="virtual environment whose packages are used instead of installing them"
    )
    arguments.add_argument(
        "--python", type=Path, default=Path(sys.base_prefix) / "bin/python3", help="Python interpreter of the image"
    )
    options = arguments.parse_args()
    area = Path(tempfile.mkdtemp(prefix="docker-steps-"))
    try:
        check_compose_config(ROOT)
        stage = build(ROOT, area, options.python, options.reuse.absolute() if options.reuse else None)
        serve(stage, read_compose_services(ROOT)["restore"])
    except (StepError, DockerfileError) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        shutil.rmtree(area, ignore_errors=True)
    say("all steps passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
