"""The service's policy on a virtual clock, held to its goals, and the others to what is said of them."""

from __future__ import annotations

import pytest

from benchmarks.fairness import POLICIES, rows

FAIR, FIRST_COME, PRIORITY, DEADLINE = POLICIES


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, float | str]]:
    return {str(row["policy"]): row for row in rows(seconds=40.0)}


def figure(table: dict[str, dict[str, float | str]], policy: str, column: str) -> float:
    return float(table[policy][column])


def test_polite_clients_wait_for_two_batches_at_most_and_are_in_time(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FAIR, "over its own service, in full batches") <= 2
    assert figure(table, FAIR, "on time (%)") >= 99


def test_bulk_gets_what_its_weight_gives_it(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FAIR, "a job's, all saturating (%)") >= 100 / 9 - 3
    assert figure(table, PRIORITY, "a job's, all saturating (%)") == 0


def test_batches_are_as_full_as_those_of_first_come_first_served(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FAIR, "beside first-come (%)") >= 97
    assert figure(table, FAIR, "device busy (%)") >= 99


def test_others_make_polite_clients_wait_or_bulk_starve(table: dict[str, dict[str, float | str]]) -> None:
    assert figure(table, FIRST_COME, "over its own service, in full batches") > 50
    assert figure(table, FIRST_COME, "on time (%)") < 90
    assert figure(table, DEADLINE, "a job's, all saturating (%)") == 0
