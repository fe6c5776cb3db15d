"""Generated requests: from the OpenAPI document, and damaged picture files with options right and wrong.

RESTORE_FUZZ is how many (300; `make test-all` sends 5000). None may answer 500 or anything but a picture, or a
documented problem in our own form.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from app.api import problems
from tests.app.api.service import Service, serving
from tests.app.imaging.mutations import damage, make_seeds

pytestmark = pytest.mark.integration

REQUESTS = int(os.environ.get("RESTORE_FUZZ", "300"))
SEED = 20_261


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Service]:
    with serving(max_upload_mb=4, max_pixels=300_000, max_output_pixels=300_000, body_timeout_s=5) as service:
        yield service
        assert service.denoise().status_code == 200
        assert service.pipeline.budget.used == 0


def answered_well(answer: httpx.Response, document: dict[str, Any], path: str, method: str) -> str:
    """Check an answer against the document and return its problem, or `ok`."""
    status, kind = answer.status_code, answer.headers["content-type"].partition(";")[0]
    assert status != 500, answer.text
    if status in (404, 405) and kind == problems.MEDIA_TYPE:
        return str(answer.json()["type"])
    told = document["paths"][path][method]["responses"]
    assert str(status) in told, (status, answer.text[:300])
    if status in (204, 304):
        return "ok"
    assert_documented(answer, document, told[str(status)])
    if status in (200, 202):
        return "ok"
    if kind != problems.MEDIA_TYPE:
        return "not ready"
    body = answer.json()
    slug = body["type"].removeprefix("/problems/")
    assert problems.BY_SLUG[slug].status == status
    assert "0x" not in body["detail"]
    return str(slug)


def assert_documented(answer: httpx.Response, document: dict[str, Any], described: dict[str, Any]) -> None:
    """Hold an answer's media type against the document, and JSON against its schema."""
    kind = answer.headers["content-type"].partition(";")[0]
    documented = {**described["content"], **described.get("x-content", {})}
    if kind.startswith("image/"):
        assert "image/png" in documented or kind in documented, kind
        return
    assert kind in documented, (kind, list(documented))
    if kind.endswith("json") and "schema" in documented[kind]:
        schema = {**documented[kind]["schema"], "components": document["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate(answer.json())


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_requests_from_the_document(fuzzed: Service, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(fuzzed.client.get("/openapi.json").json())
    document = schema.raw_schema
    operations = [result.ok() for result in schema.get_all_operations()]
    share = max(1, REQUESTS // 3 // len(operations) // 2)

    for operation in operations:
        if mode is GenerationMode.POSITIVE or operation.method == "post":  # a GET takes little that could be wrong
            examples = share * 3 if operation.method == "post" else share
            sender(fuzzed, operation, operation.as_strategy(generation_mode=mode), document, examples)()


def sender(service: Service, operation: Any, cases: Any, document: dict[str, Any], examples: int) -> Any:
    """Return a function that sends so many generated requests to one operation and checks what comes back."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: Any) -> None:
        try:
            raw = case.call(base_url=str(service.client.base_url))
        except (UnicodeError, ValueError):
            return  # no client could put it on the wire
        headers = {name: values[0] for name, values in raw.headers.items()}
        answer = httpx.Response(raw.status_code, headers=headers, content=raw.content)
        answered_well(answer, document, operation.path, operation.method)

    return send


FIELDS = {
    "model": ["", "photo", "identity@1", "digits", "nearest", "fotos", "photo@2", "@", "\0", "ä" * 99],
    "format": ["auto", "png", "jpeg", "webp", "tiff", "avif", "gif", ""],
    "quality": ["1", "100", "50", "0", "-1", "1e9", "ninety"],
    "lossless": ["true", "false", "1", "yes", "maybe"],
    "metadata": ["keep", "color", "strip", "all"],
    "strength": ["auto", "0", "1", "0.5", "2", "nan", "-0.0"],
    "preserve": ["0", "1", "0.3", "inf"],
    "scale": ["2", "3", "4", "5", "2.0"],
}
ACCEPTS = ["*/*", "image/*", "image/webp", "image/avif;q=0.3, image/jpeg", "application/json", "text/html", ";;q", ""]


def request(chance: random.Random, good: list[bytes]) -> tuple[str, dict[str, Any]]:
    """Return a path and what to send there: mostly a damaged picture with options mostly right."""
    path = chance.choice(["/denoise", "/superres"])
    known = [name for name in FIELDS if name != ("scale" if path == "/denoise" else "strength")]
    names = chance.sample(known, chance.choice([0, 0, 1, 1, 2, 4]))
    texts = {name: FIELDS[name][int(len(FIELDS[name]) * chance.random() ** 2)] for name in names}
    texts.pop("preserve", None) if path == "/superres" else None
    if chance.random() < 0.03:
        texts["surprise"] = "1"
    filename = chance.choice(["a.png", "b.jpg", "c", "ü\u202e.tiff", "x" * 300])
    content = {"files": {"image": (filename, damage(chance.choice(good), chance))}, "data": texts}
    return path, content | {"headers": {"Accept": ACCEPTS[int(len(ACCEPTS) * chance.random() ** 2)]}}


@pytest.mark.timeout(3000)
def test_damaged_pictures(fuzzed: Service) -> None:
    document = fuzzed.client.get("/openapi.json").json()
    good = make_seeds()
    outcomes: Counter[str] = Counter()
    for index in range(REQUESTS * 2 // 3):
        chance = random.Random(SEED + index)
        path, content = request(chance, good)
        try:
            answer = fuzzed.client.post(path, **content)
        except httpx.HTTPError as error:
            raise AssertionError(f"request {index} was not answered: {error!r}") from error
        try:
            outcomes[answered_well(answer, document, path, "post")] += 1
        except AssertionError as error:
            raise AssertionError(f"request {index} (seed {SEED + index}): {error}") from error
    assert outcomes["ok"] > REQUESTS / 20, outcomes
    assert outcomes["broken-image"] > REQUESTS / 20, outcomes
    print(dict(outcomes))
