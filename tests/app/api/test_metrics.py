"""What is measured, and that the dashboard, the alerts and the documentation speak of nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.api.metrics import Metrics
from tests.app.api.service import Service, serving
from tests.engines import Slow

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring/dashboards/restore.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
KINDS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def queries() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def kinds(service: Service) -> dict[str, str]:
    """Return {name: counter, gauge or histogram} of every metric, as Prometheus is told."""
    text = service.client.get("/metrics").text
    found = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    return {name: kind for name, kind in found if not name.endswith("_created")}  # when each began, which nobody asks


def test_sizes_are_a_histogram_and_kinds_a_counter_each() -> None:
    metrics = Metrics()
    sizes: dict[int, int] = {1: 3, 5: 2, 100: 1}
    metrics.watch_sizes("size", "Sizes.", lambda: sizes)
    metrics.watch_kinds("refused", "Refused.", "reason", lambda: {"late": 2, "full": 1})
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
    ):
        assert line in lines
    sizes[1] += 1
    assert "size_sum 114.0" in metrics.text().decode()  # read anew


def test_batches_refusals_and_models_are_counted() -> None:
    slow = Slow()
    with serving({"slow": slow}) as service:
        answer = service.denoise(model="slow", headers={"Cancel-After": "200ms"})
        assert answer.status_code == 504
        slow.gate.set()
        assert service.denoise(model="lost").status_code == 503
        text = service.client.get("/metrics").text
        found = dict(re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE))
        assert found["restore_batch_size_count"] == found['restore_device_batches{device="CPU:0"}']
        assert found["restore_batch_size_sum"] == found['restore_device_tiles{device="CPU:0"}']
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
    (job,) = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    assert {name for entry in job["dns_sd_configs"] for name in entry["names"]} == serving


def test_every_metric_is_explained_and_no_other(service: Service) -> None:
    there = kinds(service)
    told = set(re.findall(r"`((?:restore|process)_\w+)`", PAGE))
    assert {name for name in there if name.startswith("restore_")} <= told
    assert told <= there.keys()


def test_every_alert_is_answered_in_the_documentation() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in PAGE


def test_panels_have_places_and_numbers_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"].endswith(".")
