"""The service's scheduling policy meets its goals on a virtual clock, and the other policies do not."""

from __future__ import annotations

import pytest

from benchmarks.fairness import POLICIES, compare_policies

pytestmark = pytest.mark.integration

FAIR, FIRST_COME, PRIORITY, DEADLINE = POLICIES


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, float | str]]:
    return {str(row["policy"]): row for row in compare_policies(seconds=40.0)}


def figure(table: dict[str, dict[str, float | str]], policy: str, column: str) -> float:
    return float(table[policy][column])


def test_polite_clients_wait_for_at_most_two_batches_and_are_on_time(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FAIR, "95th percentile without own batch, in full batches") <= 2
    assert figure(table, FAIR, "on time (%)") >= 99


def test_a_job_gets_the_share_of_its_weight(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FAIR, "job's tiles, all saturating (%)") >= 100 / 9 - 3
    assert figure(table, PRIORITY, "job's tiles, all saturating (%)") == 0


def test_batches_are_as_full_as_those_of_first_come_first_served(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FAIR, "relative to first-come (%)") >= 97
    assert figure(table, FAIR, "device busy (%)") >= 99


def test_other_policies_delay_polite_clients_or_starve_jobs(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FIRST_COME, "95th percentile without own batch, in full batches") > 50
    assert figure(table, FIRST_COME, "on time (%)") < 90
    assert figure(table, DEADLINE, "job's tiles, all saturating (%)") == 0
