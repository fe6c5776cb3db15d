from __future__ import annotations

import html
import json
import re
from pathlib import Path

import httpx
import pytest

from app import errors
from app.api import problems
from app.api.schemas import ProblemTypeList
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
    row = problems.BY_SLUG[slug]
    shown = text_of(answer.text)
    for text in (row.title, row.meaning, row.remedy, f"HTTP status {row.status}", row.example.detail):
        assert text.replace("`", "") in shown.replace("`", ""), text
    assert '<meta name="viewport"' in answer.text
    assert links(service, answer) >= {"/problems", "/docs"}


def test_the_list_links_to_each_problem(service: Service) -> None:
    answer = service.client.get("/problems")
    assert answer.headers["content-type"].startswith("text/html")
    assert links(service, answer) >= {f"/problems/{slug}" for slug in problems.BY_SLUG}
    for row in problems.TABLE:
        assert row.title in text_of(answer.text)


def test_the_list_is_json_if_accept_prefers_it(service: Service) -> None:
    answer = service.client.get("/problems", headers={"Accept": "application/json"})
    listed = ProblemTypeList.model_validate_json(answer.content).problems
    assert {row.slug: (row.status, row.title, row.meaning, row.remedy) for row in listed} == {
        row.slug: (row.status, row.title, row.meaning, row.remedy) for row in problems.TABLE
    }
    assert [row.status for row in listed] == sorted(row.status for row in problems.TABLE)
    browser = service.client.get("/problems", headers={"Accept": "text/html,application/json;q=0.9,*/*;q=0.8"})
    assert browser.headers["content-type"].startswith("text/html")


def test_the_pages_load_nothing_from_elsewhere(service: Service) -> None:
    for path in ("/problems", "/problems/unknown-field"):
        answer = service.client.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"(src|href)=\"(https?:)?//|url\(|@import", answer.text)


def test_an_unknown_problem_points_to_the_list(service: Service) -> None:
    answer = service.client.get("/problems/no-such")
    assert answer.status_code == 404
    assert "GET /problems" in answer.json()["detail"]


def text_of(page: str) -> str:
    return html.unescape(re.sub("<[^>]+>", "", page))


def links(service: Service, answer: httpx.Response) -> set[str]:
    """Return the paths that a page links to; each must exist."""
    paths = {answer.url.join(target).path for target in re.findall(r'href="([^"]+)"', answer.text)}
    for path in paths & {"/problems", "/docs"}:
        assert service.client.get(path).status_code == 200, path
    return paths
