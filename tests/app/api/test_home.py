"""`GET /`: the page for browsers, the index for programs. What the page does is in `tests/e2e/test_page.py`."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from app.api.routes.home import FOLDER
from app.api.schemas import Index
from app.main import VERSION
from tests.app.api.service import Service, serving

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
"""As browsers send it."""
MAX_WEIGHT = 60_000
FILES = sorted(FOLDER.iterdir())


def references(html: str) -> set[str]:
    return set(re.findall(r'(?:src|href)="(?!#)([^"]+)"', html))


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html;q=0.5", "image/png"])
def test_programs_get_an_index(service: Service, accept: str | None) -> None:
    answer = service.client.get("/", headers={} if accept is None else {"Accept": accept})
    index = Index.model_validate_json(answer.content)
    assert (index.version, index.needs_key) == (VERSION, False)
    assert index.limits.max_upload_mb == service.settings.max_upload_mb
    assert index.limits.job_ttl_h == service.settings.job_ttl_h
    for path in index.links.values():
        assert service.client.get(path).status_code == 200, path


@pytest.mark.parametrize("accept", [HTML["Accept"], "text/html", "text/*;q=0.1"])
def test_browsers_get_the_page(service: Service, accept: str) -> None:
    answer = service.client.get("/", headers={"Accept": accept})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Accept" in answer.headers["vary"]
    docs = service.client.get("/docs")
    assert answer.headers["content-security-policy"] == docs.headers["content-security-policy"]


def test_everything_that_the_page_refers_to_is_there(service: Service) -> None:
    found = references(service.client.get("/", headers=HTML).text)
    assert {"page/main.js", "page/style.css", "docs", "."} <= found
    for path in found:
        assert service.client.get(f"/{path}").status_code == 200, path
    for file in FOLDER.glob("*.js"):
        for name in re.findall(r'^import .* from "\./(.+)";$', file.read_text("utf-8"), re.MULTILINE):
            answer = service.client.get(f"/page/{name}")
            assert answer.headers["content-type"] == "text/javascript; charset=utf-8", name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_page_holds_no_absolute_address(file: Path) -> None:
    text = file.read_bytes().decode("utf-8", "replace").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?i)\bhttps?:|['\"(=]//[a-z]|@import", text)


def test_the_page_is_light(service: Service) -> None:
    """What a browser receives for the whole page: with styles, scripts and the sample, without the API's answers."""
    sent = 0
    for path in ["/", *(f"/page/{file.name}" for file in FILES if file.name != "index.html")]:
        with service.client.stream("GET", path, headers={**HTML, "Accept-Encoding": "gzip"}) as answer:
            sent += sum(len(piece) for piece in answer.iter_raw())
    assert 10_000 < sent < MAX_WEIGHT


def test_files_are_compressed_only_for_those_who_can_read_that(service: Service) -> None:
    plain = service.client.get("/page/main.js", headers={"Accept-Encoding": "identity"})
    packed = service.client.get("/page/main.js", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content == (FOLDER / "main.js").read_bytes()
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert packed.headers["etag"] != plain.headers["etag"]


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/sample.webp"])
def test_what_a_browser_has_is_not_sent_again(service: Service, path: str) -> None:
    first = service.client.get(path, headers=HTML)
    assert first.headers["cache-control"] == "no-cache"
    again = service.client.get(path, headers={**HTML, "If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["absent.js", "index.html", "..%2fresponses.py", "%2e%2e/responses.py", "."])
def test_other_files_are_not_served(service: Service, name: str) -> None:
    answer = service.client.get(httpx.URL(f"http://127.0.0.1:{service.port}/page/{name}"))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_needs_no_key() -> None:
    with serving(api_keys=("open sesame",), settled=False) as service:
        assert service.client.get("/").json()["needs_key"] is True
        assert service.client.get("/", headers=HTML).status_code == 200
        assert service.client.get("/page/main.js").status_code == 200
        assert service.client.get("/models").status_code == 401


def test_a_waited_result_names_its_job_so_that_it_can_be_deleted(service: Service) -> None:
    answer = service.denoise(headers={"Prefer": "wait=20"})
    result = answer.headers["content-location"]
    assert re.fullmatch(r"/jobs/[0-9a-f]{32}/result", result)
    assert service.client.get(result).content == answer.content
    assert service.client.delete(result.removesuffix("/result")).status_code == 204
    assert service.client.get(result).status_code == 404
