"""A new task is one module with a `TASK` and one line in the table: its endpoint, jobs, document and probe follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from app.engine.protocol import Engine, RequestContext
from app.imaging.picture import Picture
from app.tasks import TASKS
from app.tasks.base import Task, TaskOptions, TaskResult
from models.manifest import Manifest
from tests.app.api.service import Service, gradient, opened, png, serving
from tests.model_repository import manifest

# --- what a new file in app/tasks would hold ---


class InvertOptions(TaskOptions):
    amount: float = Field(1.0, ge=0, le=1, description="How much of the picture is inverted.", examples=[1.0])


async def invert(picture: Picture, options: InvertOptions, engine: Engine, context: RequestContext) -> TaskResult:
    """Return the negative of a picture."""
    model = engine.find("invert", options.model_name)
    pixels = np.rint(picture.pixels * (1 - options.amount) + (255 - picture.pixels) * options.amount)
    context.progress.expect(1)
    context.progress.step()
    return TaskResult(picture.with_pixels(pixels.astype(np.uint8), picture.alpha), model.id, {"amount": "all"})


def probe(model: Manifest, picture: Picture) -> tuple[InvertOptions, dict[str, Picture]]:
    return InvertOptions(model=model.versioned_name), {}


TASK = Task(name="invert", summary="Invert a picture", options=InvertOptions, run=invert, probe=probe)

# --- what follows from it ---


@pytest.fixture(scope="module")
def inverting() -> Iterator[Service]:
    models = [manifest("invert", "negative", default=True)]
    with serving(models=models, tasks=(*TASKS, TASK)) as service:
        yield service


def test_its_endpoint_takes_a_picture_and_checks_its_options(inverting: Service) -> None:
    answer = inverting.send("/invert", png())
    assert (answer.status_code, answer.headers["x-model"]) == (200, "invert/negative@1")
    np.testing.assert_array_equal(opened(answer.content), 255 - gradient())
    refused = inverting.send("/invert", png(), amount=2)
    assert refused.status_code == 422
    assert refused.json()["detail"] == "`amount` must be a number from 0 to 1, not '2'."


def test_it_runs_as_a_job(inverting: Service) -> None:
    answer = inverting.send("/invert", png(), headers={"Prefer": "wait=20"})
    assert answer.status_code == 200
    np.testing.assert_array_equal(opened(answer.content), 255 - gradient())


def test_it_is_in_the_document_and_readiness_probes_it(inverting: Service) -> None:
    document: dict[str, Any] = inverting.client.get("/openapi.json").json()
    operation = document["paths"]["/invert"]["post"]
    assert (operation["operationId"], operation["summary"]) == ("invert", "Invert a picture")
    assert "amount" in json.dumps(operation["requestBody"])
    assert inverting.client.get("/readyz").json()["tasks"] == {"invert": "ready"}
