"""What our Docker files contain. `make test-image` builds the image and runs it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.main import VERSION
from app.settings import Settings, variable
from scripts.try_image import ROOT, ImageError, base_of, export_tracked, main

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
DOCUMENT: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+(?::-([^}]*))?\}", r"\1", COMPOSE))
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
LOCKS = ("serve.txt", "gpu.txt", "ray.txt")


def test_the_dockerfile_copies_only_files_that_git_tracks_and_the_builder_gets(tmp_path: Path) -> None:
    export_tracked(tmp_path)
    let_through = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert let_through[1] == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = [name.replace("${LOCK}", lock) for line in copied for lock in LOCKS for name in line.split()]
    assert "requirements/ray.txt" in names
    for name in names:
        assert f"!{name}" in let_through
        assert (tmp_path / name).exists()
    sent = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sent <= {*listed.splitlines()}


def test_the_image_runs_as_non_root_with_a_health_check_and_says_its_version() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE) == ["10001"]
    assert "/livez" in DOCKERFILE.partition("HEALTHCHECK")[2]
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE
    assert base_of(DOCKERFILE) == "python:3.12-slim"
    with pytest.raises(ImageError, match="ARG BASE"):
        base_of("FROM a\n")


def test_the_image_is_named_before_how_to_build_it() -> None:
    built = {name: service for name, service in SERVICES.items() if "build" in service}
    assert {service["image"] for service in built.values()} == {
        f"restore:{VERSION}",
        f"restore:{VERSION}-gpu",
        f"restore:{VERSION}-ray",
    }
    for section in re.split(r"\n(?=  \S)", COMPOSE):
        if "\n    build:" in section:
            assert section.index("\n    image:") < section.index("\n    build:")


def test_services_of_ours_publish_to_this_host_and_stop_in_time() -> None:
    for name in ("restore", "restore-gpu"):
        service = SERVICES[name]
        assert "/readyz" in " ".join(service["healthcheck"]["test"])
        assert not service["environment"]["RESTORE_API_KEYS"]
        assert service["ports"] == ["127.0.0.1:8000:8000"]
        # The service says itself when it stops, before the engine loses its patience.
        assert int(service["stop_grace_period"].removesuffix("s")) >= Settings().stop_timeout_s + 10


def test_every_setting_reaches_the_service_except_those_of_the_compose_file() -> None:
    own = {"host", "port", "models_dir", "data_dir", "stop_timeout_s"}
    cluster = {name for name in Settings.model_fields if name == "engine" or name.startswith("ray_")}
    passed = {variable(name) for name in Settings.model_fields.keys() - own}
    assert SERVICES["restore"]["environment"].keys() == passed - {variable(name) for name in cluster}
    assert {name for name in SERVICES["ray-front"]["environment"] if name.startswith("RESTORE_")} == passed


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
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


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_and_locks_exist(name: str) -> None:
    service = SERVICES[name]
    for source, *_, last in (volume.split(":") for volume in service["volumes"]):
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert last == "ro"
        else:
            assert source in DOCUMENT["volumes"]
    if isinstance(service.get("build"), dict):
        assert service["build"]["args"]["LOCK"] in LOCKS


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


def test_cluster_nodes_are_not_published() -> None:
    cluster = {name: service for name, service in SERVICES.items() if "ray" in service.get("profiles", ())}
    assert set(cluster) == {"ray-head", "ray-node", "ray-front"}
    for name, service in cluster.items():
        assert service["build"]["args"]["LOCK"] == "ray.txt"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert ("ports" in service) == ("default" in service["networks"]) == (name == "ray-front")
    assert DOCUMENT["networks"]["ray"]["internal"] is True


def test_without_an_engine_the_script_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 1
    assert "apt-get install podman" in capsys.readouterr().out
