"""Builds the image and tries it as the compose file runs it: read-only, without capabilities, as an unprivileged user.

`python -m scripts.try_image [--lock gpu.txt] [--stand-in] [--screenshots FOLDER]` (`make test-image`) needs Docker or
Podman. It builds the Dockerfile from the files that git tracks, starts the image with nothing to write to but its
volume and /tmp, waits for both health checks, asks for a picture, uses the page where there is a chromedriver, puts a
model into the volume for models, stops it, and prints its size and how long each step took.

Where the base image cannot be pulled, or with `--stand-in`, debootstrap makes one from Debian's own Python (any of the
versions that the service supports; root is needed). The rest is the same.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = "localhost/restore-stand-in:latest"
SUITE = "trixie"
PACKAGES = "python3,python3-venv,ca-certificates"
IMAGE = "localhost/restore:test"
START_SECONDS = 300
LIMIT = 4096
"""Files and processes that a step or the service may have."""
CERTIFICATES = Path("/etc/ssl/certs")


class ImageError(RuntimeError):
    """A step failed. The message says which and why."""


def say(text: str) -> None:
    print(f"[image] {text}", flush=True)


class Engine:
    """Docker, or Podman with options that let it run here."""

    def __init__(self) -> None:
        name = next((name for name in ("docker", "podman") if succeeds(name, "info")), None)
        if name is None:
            raise ImageError("needs Docker or Podman. On Debian: apt-get install podman buildah runc debootstrap")
        self.command = [name]
        self.limits: list[str] = []
        if name == "podman":
            # By itself Podman raises both limits, which not every root may.
            for limit, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
                hard = resource.getrlimit(number)[1]
                most = LIMIT if hard == resource.RLIM_INFINITY else min(hard, LIMIT)
                self.limits += ["--ulimit", f"{limit}={most}:{most}"]
            if shutil.which("runc"):  # crun refuses to run where control groups of both versions are mounted
                self.command += ["--runtime", "runc"]

    def run(self, *words: str, check: bool = True) -> str:
        """Run the engine and return its output. Raises ImageError."""
        done = subprocess.run([*self.command, *words], check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise ImageError(f"{words[0]}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout.strip()


def succeeds(*command: str) -> bool:
    """Return whether a command exists and ends with 0 within two minutes."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Print how long a step takes."""
    begun = time.perf_counter()
    yield
    say(f"{name}: {time.perf_counter() - begun:.1f} s")


def base_of(dockerfile: str) -> str:
    """Return the image that the Dockerfile starts from. Raises ImageError."""
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    if not found:
        raise ImageError("the Dockerfile has no line ARG BASE=…")
    return found[1]


def choose_base(engine: Engine, name: str, *, stand_in: bool) -> str:
    """Return the base image: `name` if it is here or can be pulled, else the stand-in, made if it is missing."""
    if not stand_in:
        if succeeds(*engine.command, "image", "inspect", name) or succeeds(*engine.command, "pull", name):
            return name
        say(f"{name} cannot be pulled; Debian's own Python stands in for it")
    if not engine.run("images", "--quiet", STAND_IN):
        with timed("making the stand-in"), tempfile.TemporaryDirectory() as folder:
            make_stand_in(engine, Path(folder))
    return STAND_IN


def make_stand_in(engine: Engine, folder: Path) -> None:
    """Make a base image with debootstrap. Raises ImageError."""
    if not shutil.which("debootstrap"):
        raise ImageError("needs debootstrap: apt-get install debootstrap")
    root, archive = folder / "root", folder / "root.tar"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImageError(f"debootstrap: {done.stdout[-500:]}")
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    shutil.rmtree(root / "var/cache/apt")
    shutil.rmtree(root / "var/lib/apt/lists")
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
    engine.run("import", str(archive), STAND_IN)


def export_tracked(target: Path) -> None:
    """Copy the files that git tracks, as in a clone: others could hide that one is missing."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def build(engine: Engine, base: str, lock: str) -> None:
    """Build the image from the tracked files. Its steps use this machine's network and certificates."""
    with tempfile.TemporaryDirectory() as folder:
        export_tracked(Path(folder))
        options = ["--network=host", "--build-arg", f"BASE={base}", "--build-arg", f"LOCK={lock}", "--tag", IMAGE]
        if engine.command[0] == "podman":
            options += [*engine.limits, "--format=docker"]  # the other format has no health check
            if CERTIFICATES.is_dir():
                options += [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"]
        engine.run("build", *options, folder)


class Container:
    """A container of the image, confined as in the compose file, but in the network of this machine.

    The folder `models` takes the place of its volume for models.
    """

    def __init__(self, engine: Engine, models: Path) -> None:
        self.engine, self.models = engine, models
        self.name = f"restore-test-{uuid.uuid4().hex[:8]}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        confined = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--init", "--memory=8g"]
        volumes = [f"--volume={self.name}:/srv/restore/var", f"--volume={self.models}:/srv/restore/models/local:ro"]
        network = ["--network=host", "--env=RESTORE_HOST=127.0.0.1", f"--env=RESTORE_PORT={self.port}"]
        options = [*confined, *volumes, *network, *self.engine.limits, "--tmpfs=/tmp:size=1g"]
        self.engine.run("run", "--detach", f"--name={self.name}", *options, IMAGE)

    def wait(self, path: str) -> None:
        """Wait until an address answers 200. Raises ImageError if the container ends, or after START_SECONDS."""
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit:
            try:
                urllib.request.urlopen(self.address + path, timeout=5).close()
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
            if self.inspect("State.Running") != "true":
                break
        raise ImageError(f"{path} did not answer:\n{self.engine.run('logs', self.name)[-2000:]}")

    def inspect(self, path: str) -> str:
        return self.engine.run("container", "inspect", "--format", f"{{{{.{path}}}}}", self.name)

    def stop(self) -> None:
        """Stop it as the compose file does. Raises ImageError unless it ends by itself with 0."""
        self.engine.run("stop", "--time=35", self.name)
        code = self.inspect("State.ExitCode")
        if code != "0":
            raise ImageError(f"exit code {code} after SIGTERM:\n{self.engine.run('logs', self.name)[-2000:]}")

    def remove(self) -> None:
        self.engine.run("rm", "--force", self.name, check=False)
        self.engine.run("volume", "rm", "--force", self.name, check=False)


def ask_for_picture(address: str, *fields: str) -> bytes:
    """Return the result of `/denoise` for a picture of the README. Raises ImageError."""
    picture = ROOT / "docs/images/astronaut-before.png"
    command = ["curl", "-fsS", "-F", f"image=@{picture}", *(word for field in fields for word in ("-F", field))]
    done = subprocess.run([*command, f"{address}/denoise"], capture_output=True, check=False)
    if done.returncode or not done.stdout.startswith(b"\x89PNG"):
        raise ImageError(f"/denoise: {done.stderr.decode()}{done.stdout[:500]!r}")
    return done.stdout


def use_page(address: str, folder: Path) -> None:
    """Clean a picture up in the page, in a Chromium; screenshots of each step go to `folder`. Raises ImageError."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = ROOT / "docs/images/astronaut-before.png"
    command = [sys.executable, "-m", "tests.e2e.newcomer_page", f"{address}/", str(picture), str(folder)]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, text=True, check=False)
    if done.returncode:
        raise ImageError(f"the page: {done.stdout}{done.stderr}")


def check_refusals(container: Container) -> None:
    """Check that nothing can be written outside the volumes, and that no capability and no installer is left."""
    program = (
        "import os, shutil, sys\n"
        "for path in ('/srv/restore/app/x', '/opt/venv/x', '/srv/restore/models/local/x', '/etc/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError: continue\n"
        "    sys.exit(path + ' can be written')\n"
        "status = open('/proc/self/status').read()\n"
        "assert 'CapEff:\\t0000000000000000' in status and 'NoNewPrivs:\\t1' in status, status\n"
        "assert os.getuid() == 10001 and shutil.which('pip') in (None, '/usr/bin/pip', '/usr/local/bin/pip')\n"
        "open('/srv/restore/var/x', 'w'); open('/tmp/x', 'w')\n"
    )
    container.engine.run("exec", container.name, "python", "-c", program)


def add_model(container: Container) -> None:
    """Copy a published model into the volume for models under another name, and use it when it is served."""
    versions = (ROOT / "models/published/denoise/photo").iterdir()
    target = container.models / "denoise/added/1"
    shutil.copytree(max(versions, key=lambda folder: int(folder.name)), target)
    manifest = json.loads((target / "manifest.json").read_text("utf-8"))
    manifest |= {"name": "added", "version": 1, "defaults": {**manifest["defaults"], "default": False}}
    (target / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    container.wait("/models/denoise/added")
    ask_for_picture(container.address, "model=added")


def try_image(engine: Engine, screenshots: Path | None = None) -> None:
    """Start the image, ask it, and stop it; the page's pictures go to `screenshots`. Raises ImageError."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the user in the container reads it
        container = Container(engine, Path(folder))
        try:
            with timed("first response of /livez"):
                container.start()
                container.wait("/livez")
            with timed("then until /readyz"):
                container.wait("/readyz")
            with timed("a picture of 256×256"):
                ask_for_picture(container.address)
            if shutil.which("chromedriver"):
                with timed("the same in the page"):
                    use_page(container.address, screenshots or Path(folder) / "page")
            check_refusals(container)
            with timed("a model in the volume, served"):
                add_model(container)
            with timed("stop"):
                container.stop()
        finally:
            container.remove()


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and try the image; return 1 if a step fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", default="serve.txt", help="the packages: serve.txt (default), gpu.txt or ray.txt")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the page, if there is a chromedriver")
    parser.add_argument("--stand-in", action="store_true", help="do not try to pull the base image")
    options = parser.parse_args(arguments)
    try:
        engine = Engine()
        base = choose_base(engine, base_of((ROOT / "Dockerfile").read_text("utf-8")), stand_in=options.stand_in)
        with timed("build"):
            build(engine, base, options.lock)
        size = int(engine.run("image", "inspect", "--format", "{{.Size}}", IMAGE))
        say(f"size: {size / 1e9:.2f} GB, of which the base {base} "
            f"{int(engine.run('image', 'inspect', '--format', '{{.Size}}', base)) / 1e9:.2f} GB")  # fmt: skip
        try_image(engine, options.screenshots)
    except (ImageError, OSError, subprocess.SubprocessError) as error:
        say(f"failed: {error}")
        return 1
    say("all steps passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
