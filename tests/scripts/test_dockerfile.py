"""The Dockerfile parser and the steps of scripts/docker_steps.py, and what our Docker files contain."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from app.settings import Settings, variable
from scripts.docker_steps import (
    ROOT,
    Stage,
    StepError,
    copy,
    copy_context,
    list_files,
    list_tracked,
    read_compose_services,
)
from scripts.dockerfile import DockerfileError, expand, is_ignored, parse, parse_exec_form, parse_pairs

SERVICES = read_compose_services(ROOT)


def test_continued_lines_comments_and_flags() -> None:
    steps = parse("# a\nFROM python:3.12 AS one\nRUN a \\\n  # in between\n  b\nCOPY --from=one --chown=1 /x /y\n")
    assert [(step.word, step.body, step.line) for step in steps] == [
        ("FROM", "python:3.12 AS one", 2),
        ("RUN", "a b", 3),
        ("COPY", "/x /y", 6),
    ]
    assert steps[2].flags == {"from": "one", "chown": "1"}


@pytest.mark.parametrize("text", ["", "RUN x", "FROM a\nFETCH b", "FROM a\nRUN", "FROM a\nRUN b \\\n"])
def test_invalid_dockerfiles_are_refused(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse(text)


def test_exec_form_and_shell_form() -> None:
    assert parse_exec_form('["python", "-m", "x"]') == ["python", "-m", "x"]
    assert parse_exec_form("python -m x") is None
    for broken in ("[python]", "[1]"):
        with pytest.raises(DockerfileError):
            parse_exec_form(broken)


def test_variables() -> None:
    assert expand("${A}:$B:${C:-see}:${D}", {"A": "1", "B": "2"}) == "1:2:see:"
    assert parse_pairs('A=1 B="two words"  C=/x') == {"A": "1", "B": "two words", "C": "/x"}
    with pytest.raises(DockerfileError):
        parse_pairs("A 1")


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("README.md", True),
        ("app/main.py", False),
        ("app/api/forms.py", False),
        ("app/api/__pycache__/forms.pyc", True),
        ("app/x.pyc", True),
        ("models/published/a/1/manifest.json", False),
        ("models/local/a/1/manifest.json", True),
        ("requirements/serve.txt", False),
        ("requirements/dev.txt", True),
        ("application/main.py", True),
    ],
)
def test_the_last_pattern_decides(path: str, out: bool) -> None:
    patterns = ["*", "!app", "!models", "!requirements/serve.txt", "models/local", "**/__pycache__", "**/*.pyc"]
    assert is_ignored(patterns, path) is out


def test_copy_of_a_missing_file_fails(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", Path("/usr/bin/python3"))
    (tmp_path / "here.txt").write_text("here")
    copy(stage, [tmp_path / "here.txt"], "/srv/")
    assert (tmp_path / "stage/srv/here.txt").read_text() == "here"
    with pytest.raises(StepError, match=r"gone\.txt"):
        copy(stage, [tmp_path / "gone.txt"], "/srv/")


def test_container_paths_become_host_paths(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Path("/usr/bin/python3"))
    stage.claim("/opt/venv")
    assert stage.localize("/opt/venv/bin:/usr/bin") == f"{tmp_path}/opt/venv/bin:/usr/bin"
    assert stage.localize("http://127.0.0.1/opt") == "http://127.0.0.1/opt"


def test_changed_files_are_detected(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    before = list_files(tmp_path, [tmp_path / "volume"])
    (tmp_path / "volume/fine").touch()
    assert list_files(tmp_path, [tmp_path / "volume"]) == before
    (tmp_path / "stray").touch()
    assert list_files(tmp_path, [tmp_path / "volume"]) != before


def test_our_dockerfile_copies_only_files_that_exist(tmp_path: Path) -> None:
    copy_context(ROOT, list_tracked(ROOT), tmp_path)
    steps = parse((ROOT / "Dockerfile").read_text())
    values = {step.body.partition("=")[0]: step.body.partition("=")[2] for step in steps if step.word == "ARG"}
    copied = [step for step in steps if step.word == "COPY" and "from" not in step.flags]
    for lock in (values["LOCK"], "gpu.txt", "ray.txt"):
        for step in copied:
            for name in shlex.split(expand(step.body, {"LOCK": lock}))[:-1]:
                assert (tmp_path / name).exists(), f"line {step.line}: {name} is not sent to the builder"
    assert not (tmp_path / "tests").exists()


def test_our_image_runs_as_non_root_with_a_health_check() -> None:
    steps = {step.word: step for step in parse((ROOT / "Dockerfile").read_text())}
    assert steps["USER"].body not in ("root", "0")
    assert "/livez" in steps["HEALTHCHECK"].body
    for name in ("restore", "restore-gpu"):
        service = SERVICES[name]
        assert "/readyz" in " ".join(service["healthcheck"]["test"])
        assert service["environment"]["RESTORE_API_KEYS"] == ""
        assert service["ports"] == ["127.0.0.1:8000:8000"]
        # The service says itself when it stops, before the engine loses its patience.
        assert int(service["stop_grace_period"].removesuffix("s")) >= Settings().stop_timeout_s + 10


def test_every_setting_reaches_the_service_except_those_of_the_compose_file() -> None:
    own = {"host", "port", "models_dir", "data_dir", "stop_timeout_s"}
    cluster = {name for name in Settings.model_fields if name == "engine" or name.startswith("ray_")}
    passed = {variable(name) for name in Settings.model_fields.keys() - own}
    assert SERVICES["restore"]["environment"].keys() == passed - {variable(name) for name in cluster}
    front = SERVICES["ray-front"]["environment"]
    assert {name for name in front if name.startswith("RESTORE_")} == passed


@pytest.mark.parametrize("name", SERVICES)
def test_services_of_the_compose_file_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if "build" not in service:  # ours says in the Dockerfile who runs it
        assert service["user"] not in ("root", "0")
        assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"])
    for volume in service["volumes"]:
        if volume.startswith("."):
            assert volume.endswith(":ro")


def test_profiles_do_not_change_the_service() -> None:
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    assert profiles["restore"] == []
    assert profiles["restore-gpu"] == ["gpu"]
    assert profiles["prometheus"] == profiles["grafana"] == ["monitoring"]
    own = {"build", "image", "profiles", "deploy"}
    assert {key: value for key, value in SERVICES["restore-gpu"].items() if key not in own} == {
        key: value for key, value in SERVICES["restore"].items() if key not in own
    }
    assert SERVICES["restore-gpu"]["build"]["args"] == {"LOCK": "gpu.txt"}
    (device,) = SERVICES["restore-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("services: {a: {volumes: ['lost:/x']}}", "lost"),
        ("services: {a: {volumes: ['./gone.yml:/x:ro']}}", "gone.yml"),
        ("services: {a: {build: {context: ., args: {LOCK: none.txt}}}}", "none.txt"),
    ],
)
def test_missing_files_of_the_compose_file_are_errors(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "docker-compose.yml").write_text(text)
    with pytest.raises(StepError, match=wanted):
        read_compose_services(tmp_path)


def test_cluster_nodes_are_confined_and_not_published() -> None:
    cluster = {name: service for name, service in SERVICES.items() if "ray" in service.get("profiles", ())}
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(cluster) == {"ray-head", "ray-node", "ray-front"}
    for name, service in cluster.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["build"]["args"]["LOCK"] == "ray.txt"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert ("ports" in service) == ("default" in service["networks"]) == (name == "ray-front")
    assert document["networks"]["ray"]["internal"] is True
