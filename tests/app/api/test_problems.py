from __future__ import annotations

import json
from pathlib import Path

import pytest

from app import errors
from app.api import problems
from tests.app.api.service import Service

ROOT = Path(__file__).parents[3]


def leaves(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    children = [child for child in kind.__subclasses__() if child.__module__.startswith("app.")]  # not those of tests
    return [leaf for child in children for leaf in leaves(child)] or [kind]


def test_every_error_has_a_row_of_its_own() -> None:
    rows = [row.error for row in problems.TABLE]
    assert set(rows) == set(leaves(errors.ServiceError))
    assert len(rows) == len(set(rows)) == len(problems.BY_SLUG)


def test_the_document_is_the_table() -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == problems.render_markdown()


def test_members_that_json_cannot_hold_are_made_to_fit() -> None:
    error = errors.Overloaded("Full.", field="a", value=float("nan"), limit=[1, float("inf")], retry_after=0.2)
    response = problems.response(error, "id")
    body = json.loads(bytes(response.body))
    assert body["value"] == "nan"
    assert body["limit"] == [1, "inf"]
    assert body["retry_after"] == 1
    assert response.headers["retry-after"] == "1"
    long = problems.response(errors.InvalidField("x", value="y" * 999), "id")
    assert json.loads(bytes(long.body))["value"] == "y" * 200


def test_an_error_outside_the_table_is_the_nearest_above_or_internal() -> None:
    class Newer(errors.Overloaded): ...

    assert problems.of(Newer("x")).slug == "overloaded"
    assert problems.of(errors.ServiceError("x")).slug == "internal-error"


@pytest.mark.parametrize("slug", sorted(problems.BY_SLUG))
def test_each_problem_has_a_page(service: Service, slug: str) -> None:
    answer = service.client.get(f"/problems/{slug}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert problems.BY_SLUG[slug].title in answer.text
