"""The shelf changes while the service runs, and nobody who asks it for something notices."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from models import repository
from models.manifest import MANIFEST_NAME
from tests.app.api.service import Service, png, serving
from tests.model_repository import manifest, photo_signatures


def publish(service: Service, version: int, name: str = "photo", *, default: bool = True) -> Path:
    """Put another version of denoise/photo on the service's shelf."""
    root = service.settings.models_dir[0]
    empty = root.parent / "empty"
    described = manifest(name=name, version=version, signatures=photo_signatures())
    return repository.publish(described, empty, root, default=default)


def publish_broken(service: Service, version: int) -> Path:
    """Put a version into the repository, in one step, whose manifest cannot be read."""
    root = service.settings.models_dir[0]
    described = manifest(name="photo", version=version, signatures=photo_signatures())
    folder = repository.publish(described, root.parent / "empty", root.parent / "elsewhere")
    (folder / MANIFEST_NAME).write_text("{", encoding="utf-8")
    return folder.rename(root / "denoise" / "photo" / str(version))


def until(true: Callable[[], bool]) -> None:
    """Wait for what the service does on its own; it looks at the shelf every 50 ms."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def load(service: Service, callers: int = 3) -> Iterator[list[httpx.Response]]:
    """Let callers send pictures of several tiles without a pause, and give all their answers."""
    answers: list[httpx.Response] = []
    end = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
            while not end.is_set():
                answers.append(client.post("/denoise", files={"image": ("a.png", png(100, 150))}))

    with ThreadPoolExecutor(callers) as pool:
        running: list[Future[None]] = [pool.submit(call) for _ in range(callers)]
        try:
            yield answers
        finally:
            end.set()
        for one in running:
            one.result()


@pytest.mark.integration
def test_a_shelf_is_replaced_under_load_and_every_request_is_answered() -> None:
    with serving(reload_s=0.05) as service, load(service) as answers:
        until(lambda: service.client.get("/readyz").status_code == 200 and len(answers) > 20)

        def serves(version: int) -> bool:
            assert service.client.get("/readyz").status_code == 200
            return service.denoise().headers["x-model"] == f"denoise/photo@{version}"

        first = service.settings.models_dir[0] / "denoise" / "photo" / "1"
        publish(service, 2)
        until(lambda: serves(2))
        shutil.rmtree(first)
        broken = publish_broken(service, 3)
        until(lambda: "denoise/photo@3" in [m["id"] for m in service.client.get("/models").json()["models"]])
        assert serves(2)
        publish(service, 4)
        shutil.rmtree(broken)
        until(lambda: serves(4))
        shutil.rmtree(first.parent / "2")
        until(lambda: card(service, "photo")["versions"] == [4])
        told = len(answers)
        until(lambda: len(answers) > told + 20)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-model"][-1] for answer in answers} == {"1", "2", "4"}


def card(service: Service, name: str) -> dict[str, object]:
    """Return the card of a denoiser."""
    answer: dict[str, object] = service.client.get(f"/models/denoise/{name}").json()
    return answer


def test_the_card_is_of_the_version_that_the_name_means() -> None:
    with serving(reload_s=0.05) as service:
        until(lambda: service.client.get("/readyz").status_code == 200)
        publish_broken(service, 2)
        until(lambda: card(service, "photo")["versions"] == [1, 2])
        assert (card(service, "photo")["id"], card(service, "photo")["latest"]) == ("denoise/photo@1", True)
        assert (card(service, "photo@2")["state"], card(service, "photo@2")["latest"]) == ("unavailable", False)
        refused = service.denoise(model="photo@2")
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/model-unavailable")
        assert service.denoise(model="photo").headers["x-model"] == "denoise/photo@1"


def test_a_new_model_can_be_asked_for_and_a_removed_one_is_unknown() -> None:
    with serving(reload_s=0.05) as service:
        until(lambda: service.client.get("/readyz").status_code == 200)
        folder = publish(service, 1, "lights", default=False)
        until(lambda: service.denoise(model="lights").status_code == 200)
        shutil.rmtree(folder.parent)
        until(lambda: service.denoise(model="lights").status_code == 422)


def test_a_shelf_is_read_at_the_start_only_where_no_looks_are_wanted() -> None:
    with serving(reload_s=0) as service:
        until(lambda: service.client.get("/readyz").status_code == 200)
        publish(service, 2)
        time.sleep(0.3)
        assert service.denoise().headers["x-model"] == "denoise/photo@1"
