"""The document that programs and Swagger UI read."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app import media_types
from app.api import problems
from app.api.forms import form_class
from app.tasks import TASKS
from app.tasks.base import Task
from tests.app.api.service import Service, hole, png, serving


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    content: dict[str, Any] = service.client.get("/openapi.json").json()
    return content


def fields(document: dict[str, Any], path: str) -> dict[str, Any]:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["image"]
    assert schema["additionalProperties"] is False
    properties: dict[str, Any] = schema["properties"]
    return properties


def test_it_is_openapi_3_1_with_all_paths(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/",
        "/denoise",
        "/superres",
        "/segment",
        "/cutout",
        "/inpaint",
        "/stylize",
        "/styles",
        "/styles/{name}.webp",
        "/jobs",
        "/jobs/{id}",
        "/jobs/{id}/events",
        "/jobs/{id}/result",
        "/models",
        "/models/{task}/{name}",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/problems",
        "/problems/{slug}",
    }


def test_cutout_is_found_by_the_words_people_search_for(document: dict[str, Any]) -> None:
    operation = document["paths"]["/cutout"]["post"]
    assert operation["operationId"] == "cutout"
    assert "Remove the background" in operation["summary"]
    assert "Background removal" in operation["description"]
    assert fields(document, "/cutout").keys() == fields(document, "/segment").keys()
    assert fields(document, "/cutout")["output"]["enum"] == ["cutout"]


@pytest.mark.parametrize("task", TASKS, ids=[task.name for task in TASKS])
def test_every_field_says_what_it_is(document: dict[str, Any], task: Task[Any]) -> None:
    listed = fields(document, f"/{task.name}")
    assert list(listed) == ["image", *task.pictures, *form_class(task).model_fields]
    for name, field in listed.items():
        assert field["description"].endswith((".", "all.")), name
        if name == "image" or name in task.pictures:
            assert (field["type"], field["format"]) == ("string", "binary")
            continue
        assert "default" in field, name
        assert field["examples"], name
        ranged = {"minimum", "maximum"} <= set(field)
        assert ranged or field.keys() & {"enum", "anyOf", "maxLength"} or field["type"] == "boolean", name


def test_examples_and_defaults_are_accepted(service: Service, document: dict[str, Any]) -> None:
    for path in ("/denoise", "/superres", "/segment", "/inpaint", "/stylize"):
        for kind in ("default", "examples"):
            values = {}
            for name, field in fields(document, path).items():
                if field.get("format") != "binary":
                    value = field["examples"][0] if kind == "examples" else field["default"]
                    values[name] = str(value).lower()
            files = {"mask": hole()} if path == "/inpaint" else {}
            if path == "/stylize" and not values["style"]:
                files = {"style_image": png()}
            assert service.send(path, **files, **values).status_code == 200


def test_operations_are_named_as_their_functions_and_no_schema_has_a_const(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)
    assert {"denoise", "segment", "list_models", "get_job", "livez"} <= set(names)
    assert '"const"' not in json.dumps(document)


def test_every_json_answer_has_a_schema_of_its_own(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                for media_type, content in answer.get("content", {}).items():
                    if media_type == "application/json" and path != "/openapi.json":
                        assert content["schema"]["$ref"].startswith("#/components/schemas/"), (path, status)
    assert all("/" not in name and "__" not in name for name in document["components"]["schemas"])


def test_the_200_of_a_picture_endpoint_is_a_picture_and_json_is_listed_apart(document: dict[str, Any]) -> None:
    for task in TASKS:
        answer = document["paths"][f"/{task.name}"]["post"]["responses"]["200"]
        assert list(answer["content"]) == ["image/png"]
        assert set(answer["x-content"]) == {media_types.RESULT, media_types.TABLE}


def test_every_operation_is_told_and_its_problems_are_in_our_form(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            assert operation["summary"], path
            for status, answer in operation["responses"].items():
                assert answer["description"], (path, status)
                if (status == "default" or int(status) >= 400) and path != "/readyz":
                    assert list(answer["content"]) == [problems.MEDIA_TYPE], (path, status)
    text = str(document)
    assert "HTTPValidationError" not in text
    assert all(slug in problems.BY_SLUG for slug in re.findall(r"/problems/([a-z-]+)", text))


def test_keys_are_in_the_document_where_they_are_needed(document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    with serving(api_keys=("k",)) as service:
        closed = service.client.get("/openapi.json").json()
    assert set(closed["components"]["securitySchemes"]) == {"bearer", "basic", "key"}
    assert closed["paths"]["/denoise"]["post"]["security"] == [{"bearer": []}, {"basic": []}, {"key": []}]
    assert closed["paths"]["/livez"]["get"]["security"] == []


def test_swagger_ui_is_ours_and_asks_nobody_else(service: Service) -> None:
    page = service.client.get("/docs")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        asset = service.client.get(f"/{address}")
        assert asset.status_code == 200, address
        assert asset.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript", "image/png")


def test_cors_is_off_unless_asked_for(service: Service) -> None:
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in service.client.get("/livez", headers=origin).headers
    with serving(cors_origins=("https://example.org",), api_keys=("k",)) as open_to_one:
        answer = open_to_one.denoise(headers=origin)
        assert answer.status_code == 401  # readable to the page, as any other answer
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        answer = open_to_one.denoise(headers={**origin, "X-API-Key": "k"})
        assert {"X-Model", "Location", "ETag"} <= set(answer.headers["access-control-expose-headers"].split(", "))
        asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"}
        preflight = open_to_one.client.options("/denoise", headers=asked)
        assert preflight.status_code == 200
        asked |= {
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "Idempotency-Key, Prefer",
        }
        assert open_to_one.client.options("/jobs/1", headers=asked).status_code == 200
        other = open_to_one.client.get("/livez", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_headers_of_the_rate_limit_are_documented(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    responses = document["paths"]["/denoise"]["post"]["responses"]
    for status, response in responses.items():
        assert {"RateLimit", "RateLimit-Policy"} <= response["headers"].keys()
        assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
    for answer in document["paths"]["/livez"]["get"]["responses"].values():
        assert "RateLimit" not in answer.get("headers", {})
    assert document["components"]["headers"].keys() == {"RateLimit", "RateLimit-Policy", "Retry-After"}
