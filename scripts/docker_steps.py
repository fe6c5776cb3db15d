"""Carry out the Dockerfile's and the compose file's steps in an empty tree, without a container engine.

`python -m scripts.docker_steps [--reuse VENV]` makes one empty folder a stage, copies into it what git tracks and
.dockerignore lets through, runs each RUN there, then starts CMD with exactly the environment that the image and the
compose file give, waits for both health checks, and stops it. So a file that the image would lack, a variable that
nobody sets, a step that needs what is not there or a write outside the volumes are found without Docker. What only an
engine can do (users, namespaces, capabilities) is named and left out, and of other images (Prometheus, Grafana) only
what the compose file gives them is looked at. `--reuse` takes the installed packages of a
virtual environment instead of installing them again.
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

from scripts.dockerfile import DockerfileError, Instruction, exec_form, expand, ignored, pairs, parse

ROOT = Path(__file__).resolve().parent.parent
# These change the host itself, or need a container's own users.
ENGINE_ONLY = ("useradd", "groupadd", "adduser", "addgroup", "chown", "apt-get", "apk")
START_SECONDS = 300


class StepError(RuntimeError):
    """A step that fails here would fail in a container. Its text names the step."""


class Stage:
    """One FROM: a folder that stands for its file system, and what the instructions so far have set."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder = folder
        self.workdir = "/"
        self.user = "root"
        self.arguments: dict[str, str] = {}
        self.environment = {"PATH": "/usr/local/bin"}
        self.command: list[str] = []
        self.health: list[str] = []
        self.own: set[str] = set()
        interpreter = self.inside("/usr/local/bin/python")
        interpreter.parent.mkdir(parents=True)
        # A script, not a link: a link would make Python look for its library in the empty tree.
        interpreter.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} "$@"\n')
        interpreter.chmod(0o755)

    def inside(self, path: str) -> Path:
        """Return where `path` of the container lies on this host."""
        return self.folder / os.path.normpath(os.path.join("/", self.workdir, path)).lstrip("/")  # noqa: PTH118

    def claim(self, path: str) -> None:
        """Note that the top folder of `path` belongs to the container: from now on commands mean ours by it."""
        top = os.path.normpath(os.path.join("/", self.workdir, path)).split("/")[1]  # noqa: PTH118
        if top and top != "tmp":
            self.own.add(top)

    def here(self, text: str) -> str:
        """Return `text` with the container's absolute paths turned into this host's."""
        tops = "|".join(sorted(map(re.escape, self.own | {"usr/local"})))
        return re.sub(rf"(?<![\w./-])/({tops})(?=[/:\s'\"]|$)", lambda match: f"{self.folder}/{match[1]}", text)

    def variables(self, extra: dict[str, str]) -> dict[str, str]:
        values = {name: self.here(value) for name, value in (self.environment | extra).items()}
        home = self.folder / "tmp"
        home.mkdir(exist_ok=True)
        values["PATH"] += ":/usr/bin:/bin"
        return values | {"HOME": str(home), "TMPDIR": str(home)}


def say(text: str) -> None:
    print(f"[docker] {text}", flush=True)


def tracked(root: Path) -> list[str]:
    """Return the files git tracks: what a clone has. A file that was made here and never added would hide a gap."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
    return [path for path in listed.decode().split("\0") if path and (root / path).exists()]


def context(root: Path, files: list[str], target: Path) -> None:
    """Copy what the builder would be sent from `root` into `target`."""
    ignore = root / ".dockerignore"
    patterns = ignore.read_text().splitlines() if ignore.exists() else []
    for path in files:
        if not ignored(patterns, path):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, target / path)


def copy(stage: Stage, sources: list[Path], destination: str) -> None:
    """Do as COPY does: a folder's contents, a file under its own or a new name. Raises StepError for a missing one."""
    stage.claim(destination)
    target = stage.inside(destination)
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
    """Do as RUN does, but for what only an engine can do, and for an installation when there is one to reuse."""
    words = exec_form(body) or ["/bin/sh", "-euc", body]
    first = shlex.split(body)[0].rsplit("/", 1)[-1] if words[0] == "/bin/sh" else words[0]
    if first in ENGINE_ONLY:
        say(f"  left out: {first} needs a container")
        return
    if reuse and " install " in body:
        locks = re.findall(r"-r\s+(\S+)", body)
        check_installed(reuse, [stage.inside(lock) for lock in locks])
        adopt(stage, reuse, shlex.split(body)[0])
        return
    values = stage.variables(stage.arguments)
    # How this host reaches its registry is this host's business: it would be the builder's network otherwise.
    values |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "http"))}
    done = subprocess.run([stage.here(word) for word in words], cwd=stage.inside("."), env=values, check=False)
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
    told = subprocess.run([python, "-c", program], input=pins, text=True, capture_output=True, check=False)
    if told.returncode or told.stdout:
        raise StepError(f"--reuse: not what the lock pins: {(told.stdout or told.stderr).strip()}")


def adopt(stage: Stage, environment: Path, interpreter: str) -> None:
    """Let the virtual environment of `interpreter` find the packages of another one."""
    say(f"  reusing the packages of {environment}")
    packages = next((environment / "lib").glob("python*/site-packages"))
    own = next((stage.inside(interpreter).parent.parent / "lib").glob("python*/site-packages"))
    if packages.parent.name != own.parent.name:
        raise StepError(f"--reuse: {packages.parent.name}, but this tree runs {own.parent.name}")
    (own / "reused.pth").write_text(f"{packages}\n")


def build(root: Path, area: Path, python: Path, reuse: Path | None) -> Stage:
    """Carry out the Dockerfile of `root` and return its last stage."""
    sent = area / "context"
    context(root, tracked(root), sent)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for step in parse((root / "Dockerfile").read_text()):
        say(f"{step.word} {step.body}"[:150])
        if step.word == "FROM":
            image, _, name = step.body.partition(" AS ")
            if not image.startswith("python:"):
                raise DockerfileError(f"line {step.line}: this script stands in for python images only, not {image}")
            wanted = image.removeprefix("python:").split("-")[0]
            told = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
            if not told.startswith(wanted):
                say(f"  Python {told} stands in for {wanted}")
            stage = Stage(area / f"stage{len(stages)}", python)
            stages[name or str(len(stages))] = stage
        elif stage is None:
            raise DockerfileError(f"line {step.line}: {step.word} before FROM is beyond this script")
        else:
            carry_out(step, stage, stages, sent, reuse)
    assert stage is not None
    return stage


def carry_out(step: Instruction, stage: Stage, stages: dict[str, Stage], sent: Path, reuse: Path | None) -> None:
    values = stage.arguments | stage.environment
    match step.word:
        case "ARG":
            name, _, default = step.body.partition("=")
            stage.arguments[name] = default
        case "ENV":
            stage.environment |= {name: expand(value, values) for name, value in pairs(step.body).items()}
        case "WORKDIR":
            stage.claim(step.body)
            stage.workdir = os.path.normpath(os.path.join(stage.workdir, expand(step.body, values)))  # noqa: PTH118
            stage.inside(".").mkdir(parents=True, exist_ok=True)
        case "COPY":
            *names, destination = shlex.split(expand(step.body, values))
            if "from" in step.flags:
                other = stages[step.flags["from"]]
                sources = [other.inside(name) for name in names]
            else:
                sources = [sent / name for name in names]
            copy(stage, sources, destination)
        case "RUN":
            run(stage, step.body, reuse)
        case "USER":
            stage.user = step.body
        case "CMD" | "ENTRYPOINT":
            stage.command = exec_form(step.body) or ["/bin/sh", "-c", step.body]
        case "HEALTHCHECK":
            _, _, test = step.body.partition("CMD ")
            stage.health = exec_form(test.strip()) or ["/bin/sh", "-c", test]
        case _:
            pass


def interpolated(value: Any) -> Any:
    """Return a value of the compose file with its variables replaced, as compose does: after YAML was read."""
    if isinstance(value, dict):
        return {key: interpolated(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [interpolated(entry) for entry in value]
    return expand(value, {}) if isinstance(value, str) else value


def compose_services(root: Path) -> dict[str, dict[str, Any]]:
    """Return the services of the compose file, with `${NAME:-default}` as an empty environment leaves them.

    Raises StepError for a volume that nobody declares, a file of ours that is not there, or a lock that no image has.
    """
    document = interpolated(yaml.safe_load((root / "docker-compose.yml").read_text()))
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
            raise StepError(f"compose: {name} wants what is not there: {', '.join(sorted(missing))}")
    return services


def engine_config(root: Path) -> None:
    """Let the Docker client read the compose file, where there is a client that can."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        say("left out: docker compose config (no client here that can)")
        return
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", "config", "--quiet"], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        raise StepError(f"docker compose config: {done.stderr.strip()}")
    say("docker compose config: fine")


def files_below(folder: Path, besides: list[Path]) -> dict[Path, float]:
    return {
        path: path.stat().st_mtime
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(other) for other in besides)
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def serve(stage: Stage, service: dict[str, Any]) -> None:
    """Start CMD as compose would, wait for both health checks, stop it. Raises StepError."""
    if stage.user in ("root", "0"):
        raise StepError("the image would run as root")
    # A name without a value is taken from the environment, which is empty here.
    given = {name: str(value) for name, value in service.get("environment", {}).items() if value is not None}
    given["RESTORE_PORT"] = str(free_port())
    writable = [stage.folder / "tmp", *(stage.inside(path.split(":")[0]) for path in service.get("tmpfs", []))]
    for volume in service.get("volumes", []):
        _, target, *mode = volume.split(":")
        stage.inside(target).mkdir(parents=True, exist_ok=True)
        if "ro" not in mode:
            writable.append(stage.inside(target))
    values = stage.variables(given)
    before = files_below(stage.folder, writable)
    command = [stage.here(word) for word in stage.command]
    say(f"CMD {shlex.join(stage.command)}")
    found = shutil.which(command[0], path=values["PATH"])
    if not found:
        raise StepError(f"CMD: {command[0]} is not on the image's PATH")
    process = subprocess.Popen([found, *command[1:]], cwd=stage.inside("."), env=values, stdin=subprocess.DEVNULL)
    try:
        test = list(service.get("healthcheck", {}).get("test", []))
        for name, words in (("the image's", stage.health), ("compose's", test[1:] if test[:1] == ["CMD"] else test)):
            if words:
                wait_until_healthy(process, [stage.here(word) for word in words], stage, values)
                say(f"{name} health check: healthy")
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        if code:
            raise StepError(f"SIGTERM was answered with exit code {code}")
        say("SIGTERM: exit code 0")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if service.get("read_only"):
        after = files_below(stage.folder, writable)
        changed = [str(path.relative_to(stage.folder)) for path in after if after[path] != before.get(path)]
        if changed:
            raise StepError(f"read_only, yet the service wrote {', '.join(sorted(changed)[:5])}")
        say("nothing was written outside volumes and tmpfs")


def wait_until_healthy(process: subprocess.Popen[bytes], test: list[str], stage: Stage, values: dict[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    found = shutil.which(test[0], path=values["PATH"]) or test[0]
    while True:
        done = subprocess.run([found, *test[1:]], cwd=stage.inside("."), env=values, capture_output=True, check=False)
        if done.returncode == 0:
            return
        if process.poll() is not None:
            raise StepError(f"the service ended with {process.returncode} before it was healthy")
        if time.monotonic() > deadline:
            raise StepError(f"not healthy after {START_SECONDS} s: {done.stderr.decode().strip().splitlines()[-1:]}")
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reuse", type=Path, help="virtual environment whose packages are taken")
    parser.add_argument("--python", type=Path, default=Path(sys.base_prefix) / "bin/python3")
    arguments = parser.parse_args()
    area = Path(tempfile.mkdtemp(prefix="docker-steps-"))
    try:
        engine_config(ROOT)
        stage = build(ROOT, area, arguments.python, arguments.reuse.absolute() if arguments.reuse else None)
        serve(stage, compose_services(ROOT)["restore"])
    except (StepError, DockerfileError) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        shutil.rmtree(area, ignore_errors=True)
    say("every step works")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
