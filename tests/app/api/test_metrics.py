"""The metrics follow Prometheus's conventions; the dashboard, the alerts and the documentation use only these names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.api.metrics import Metrics, counter, gauge, histogram
from tests.app.api.service import Service, serving, wait_until
from tests.engines import Slow

MONITORING = Path(__file__).resolve().parents[3] / "monitoring"
ROOT = MONITORING.parent
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboards/restore.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((MONITORING / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
KINDS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def queries() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for rule in RULES]


def kinds(service: Service) -> dict[str, str]:
    """Return {name: counter, gauge or histogram} of every metric, as Prometheus reads it."""
    text = service.client.get("/metrics").text
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


def promtool(*arguments: str | Path, stdin: str = "") -> None:
    """Run promtool; fail with what it printed."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    sizes: dict[int, int] = {1: 3, 5: 2, 100: 1}
    metrics.watch(
        lambda: [
            histogram("size", "Sizes.", sizes, (1, 4, 8, 64)),
            counter("refused", "Refused.", {"late": 2, "full": 1}, "reason"),
            counter("retried", "Retried.", 7),
            gauge("waiting", "Waiting.", {"a": 1.5}, "queue"),
        ]
    )
    lines = metrics.text().decode().splitlines()
    for line in (
        'size_bucket{le="1"} 3.0',
        'size_bucket{le="4"} 3.0',
        'size_bucket{le="8"} 5.0',
        'size_bucket{le="64"} 5.0',
        'size_bucket{le="+Inf"} 6.0',
        "size_count 6.0",
        "size_sum 113.0",
        'refused_total{reason="full"} 1.0',
        'refused_total{reason="late"} 2.0',
        "retried_total 7.0",
        'waiting{queue="a"} 1.5',
    ):
        assert line in lines
    sizes[1] += 1
    assert "size_sum 114.0" in metrics.text().decode()


def test_names_follow_the_conventions_of_prometheus(service: Service) -> None:
    found = kinds(service)
    assert {"counter", "gauge", "histogram"} == set(found.values())
    for name, kind in found.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith("_created"), name
        assert not re.search("mega|milli|_ms|_mb|minutes|hours", name), name
    for family in text_string_to_metric_families(service.client.get("/metrics").text):
        assert family.documentation.endswith(".") or family.name.startswith("process_"), family.name


def test_counters_only_rise(service: Service) -> None:
    def read() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        families = text_string_to_metric_families(service.client.get("/metrics").text)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }

    before = read()
    assert service.denoise().status_code == 200
    after = read()
    assert before.keys() <= after.keys()
    assert all(after[key] >= value for key, value in before.items())
    tiles = ("restore_device_tiles_total", (("device", "CPU:0"),))
    assert after[tiles] > before[tiles]


def test_the_age_of_the_oldest_entry_of_each_queue_is_measured() -> None:
    def ages(service: Service) -> dict[str, float]:
        text = service.client.get("/metrics").text
        found = re.findall(r'^restore_queue_age_seconds{queue="(\w+)"} (\S+)$', text, re.MULTILINE)
        return {queue: float(age) for queue, age in found}

    slow = Slow()
    with serving({"slow": slow}) as service:
        wait_until(
            lambda: ages(service) == {"requests": 0, "decoders": 0, "tiles": 0, "jobs": 0}
        )  # after the models' probes
        for _ in range(2):  # one runs, the other waits
            assert service.denoise(model="slow", headers={"Prefer": "respond-async"}).status_code == 202
        wait_until(lambda: ages(service)["tiles"] > 0 and ages(service)["jobs"] > 0)
        before = ages(service)
        wait_until(lambda: all(ages(service)[queue] > before[queue] for queue in ("tiles", "jobs")))
        assert ages(service)["requests"] == 0
        slow.gate.set()
        wait_until(lambda: ages(service) == {"requests": 0, "decoders": 0, "tiles": 0, "jobs": 0})


def test_batches_refusals_and_models_are_counted() -> None:
    slow = Slow()
    with serving({"slow": slow}) as service:
        answer = service.denoise(model="slow", headers={"Cancel-After": "200ms"})
        assert answer.status_code == 504
        slow.gate.set()
        assert service.denoise(model="lost").status_code == 503
        text = service.client.get("/metrics").text
        found = dict(re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE))
        assert found["restore_batch_size_count"] == found['restore_device_batches_total{device="CPU:0"}']
        assert found["restore_batch_size_sum"] == found['restore_device_tiles_total{device="CPU:0"}']
        assert found["restore_models_unavailable"] == "1.0"


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_there_is(service: Service, query: str) -> None:
    there = {name + suffix for name, kind in kinds(service).items() for suffix in KINDS[kind]} | {"up"}
    named = set(re.findall(r"\b(?:restore|process)_\w+|\bup\b", query))
    assert named
    assert named <= there


def test_what_an_alert_counts_is_there_before_it_happens() -> None:
    with serving() as service:
        text = service.client.get("/metrics").text
    wanted = {
        slug for query in queries() for slugs in re.findall(r'slug=~?"([^"]+)"', query) for slug in slugs.split("|")
    }
    assert "internal-error" in wanted
    for slug in wanted:
        assert f'restore_problems_total{{slug="{slug}"}} 0.0' in text


def test_prometheus_looks_for_the_service_under_each_of_its_names() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    serving = {name for name, one in services.items() if any(port.endswith(":8000") for port in one.get("ports", []))}
    assert {"restore", "ray-front"} <= serving
    (job,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert {name for entry in job["dns_sd_configs"] for name in entry["names"]} == serving


def test_every_metric_is_explained_and_no_other(service: Service) -> None:
    there = kinds(service)
    told = set(re.findall(r"`((?:restore|process)_\w+)`", PAGE))
    assert {name for name in there if name.startswith("restore_")} <= told
    assert told <= there.keys()


def test_every_alert_is_answered_in_the_documentation() -> None:
    for rule in RULES:
        assert f"`{rule['alert']}`" in PAGE


def test_every_alert_is_tested_to_fire_and_to_stay_silent() -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.slow
@needs_promtool
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    shutil.copy(MONITORING / "no-key", tmp_path / "key")  # where the compose file mounts it
    promtool("check", "config", tmp_path / "prometheus.yml")
    promtool("check", "rules", tmp_path / "alerts.yml")


@pytest.mark.slow
@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", MONITORING / "alerts_test.yml")


@pytest.mark.slow
@needs_promtool
def test_promtool_finds_no_fault_in_the_metrics(service: Service) -> None:
    assert service.denoise().status_code == 200
    promtool("check", "metrics", stdin=service.client.get("/metrics").text)


def test_panels_have_places_and_numbers_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".")
