"""The service on a port of its own, over a shelf of models that need no TensorFlow, and pictures to send."""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from app.api.lifecycle import Shutdown
from app.api.server import Server
from app.engine.loader import Model
from app.engine.local import LocalEngine
from app.engine.protocol import Arrays
from app.engine.registry import Registry
from app.limits.concurrency import ConcurrencyLimit
from app.main import create_app
from app.pipeline import ImagePipeline
from app.settings import Settings
from app.tasks import TASKS
from app.tasks.base import Task
from models import repository
from models.manifest import Geometry, Manifest
from tests.engines import Loader, Painter
from tests.model_repository import (
    CANONICAL,
    DIGIT,
    LIGHT_CLASSES,
    PAINTER,
    STYLES,
    digit_signatures,
    inpaint_signatures,
    manifest,
    photo_signatures,
    segment_signatures,
    stylize_signatures,
    superres_signatures,
)


class Honest:
    """A model that does what its signature's name says: `estimate` gives 0.25, `x3` repeats, `segment` finds light,
    `inpaint` fills with grey.
    """

    def __init__(self, classes: int = 1) -> None:
        self.classes = classes

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        image = inputs["image"]
        if signature == "estimate":
            return {"level": np.full((len(image), 1, 1, 1), 0.25, np.float32)}
        if signature == "segment":
            light = (image[..., :1] > 0.5).astype(np.float32)
            return {"probabilities": light if self.classes == 1 else np.concatenate([1 - light, light], axis=-1)}
        if signature == "inpaint":
            return {"image": image + inputs["mask"] / 2}
        scale = int(signature[1:]) if signature.startswith("x") else 1
        return {"image": image.repeat(scale, axis=1).repeat(scale, axis=2)}


WINDOW = Geometry(kind="canonical", multiple=64, canonical_sizes=[(192, 192)])
MODELS: tuple[Manifest, ...] = (
    manifest(name="photo", signatures=photo_signatures(), default=True),
    manifest(name="identity"),
    manifest(name="slow"),
    manifest(name="failing"),
    manifest(name="lost"),
    manifest(name="digits", signatures=digit_signatures(), geometry=DIGIT),
    manifest("superres", "nearest", signatures=superres_signatures(2, 3), default=True),
    manifest(
        "segment", "light", signatures=segment_signatures(1), geometry=CANONICAL, classes=LIGHT_CLASSES, default=True
    ),
    manifest("segment", "lights", signatures=segment_signatures(2), geometry=CANONICAL, classes=LIGHT_CLASSES),
    manifest("inpaint", "grey", signatures=inpaint_signatures(), geometry=WINDOW, default=True),
    manifest(
        "stylize",
        "color",
        signatures=stylize_signatures(),
        styles=STYLES,
        defaults={**PAINTER, "default": True},
    ),
)


@dataclass(frozen=True)
class Service:
    """A running service and a client that talks to it."""

    app: FastAPI
    client: httpx.Client
    port: int
    server: Server

    @property
    def pipeline(self) -> ImagePipeline:
        pipeline: ImagePipeline = self.app.state.pipeline
        return pipeline

    @property
    def concurrency(self) -> ConcurrencyLimit:
        concurrency: ConcurrencyLimit = self.app.state.concurrency
        return concurrency

    @property
    def shutdown(self) -> Shutdown:
        shutdown: Shutdown = self.app.state.shutdown
        return shutdown

    @property
    def settings(self) -> Settings:
        settings: Settings = self.app.state.settings
        return settings

    def denoise(self, data: bytes | None = None, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        """Send a picture to `/denoise`."""
        return self.send("/denoise", data, headers=headers, **fields)

    def send(
        self, path: str, data: bytes | None = None, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """Send a picture (a small one, unless told) and fields to `path`; bytes are sent as a file."""
        texts = {name: str(value) for name, value in fields.items() if not isinstance(value, bytes)}
        files = {"image": ("holiday.png", png() if data is None else data)}
        files |= {name: (f"{name}.png", value) for name, value in fields.items() if isinstance(value, bytes)}
        return self.client.post(path, files=files, data=texts, headers=headers)


def wait_until(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)


@contextmanager
def serving(
    fakes: Mapping[str, Model] | None = None,
    models: Sequence[Manifest] = MODELS,
    *,
    tasks: Sequence[Task[Any]] = TASKS,
    clock: Callable[[], float] = time.time,
    settled: bool = True,
    **settings: Any,
) -> Iterator[Service]:
    """Run the service with these models and settings; `fakes` {model's name: model} replace the honest ones.

    Where `settled`, its own first pictures are through: they would wait behind a model that a test blocks.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, empty = Path(folder) / "shelf", Path(folder) / "empty"
        empty.mkdir()
        for model in models:
            repository.publish(model, empty, root)
        honest: dict[str, Model] = {
            model.name: Honest(2 if model.name == "lights" else 1) for model in models if model.name != "lost"
        }
        honest |= {model.name: Painter() for model in models if model.task == "stylize"}
        chosen = Settings(
            **{"models_dir": (root,), "data_dir": Path(folder) / "data", "stop_timeout_s": 5, "decoders": 0, **settings}
        )
        registry = Registry(chosen.models_dir, Loader(honest | dict(fakes or {})))
        engine = LocalEngine(
            registry,
            max_batch=chosen.max_batch,
            max_megapixels=chosen.queue_megapixels,
            precision=chosen.precision,
        )
        app = create_app(chosen, engine=engine, tasks=tasks, clock=clock)
        with (
            running(app) as (server, port),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client,
        ):
            if settled:
                # In a fresh clone, loops are compiled first: up to a minute on a busy machine.
                wait_until(lambda: "loading" not in client.get("/readyz").json()["tasks"].values(), 120)
            yield Service(app, client, port, server)


@contextmanager
def running(app: FastAPI) -> Iterator[tuple[Server, int]]:
    """Serve `app` from a thread and give its server and port."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False)
    up = threading.Event()
    server = Server(config, app.state.shutdown, app.state.settings, up.set, app.state.metrics.count_malformed)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert up.wait(30)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def gradient(height: int = 24, width: int = 40, channels: int = 3) -> NDArray[np.uint8]:
    """Return a picture in which no two corners are alike."""
    rows, columns = np.mgrid[:height, :width]
    bands = [rows * 5 + 10, columns * 3 + 20, rows * 2 + columns * 2 + 30]
    return np.stack(bands[:channels], axis=-1).astype(np.uint8)


def file(pixels: NDArray[Any], form: str = "png", **options: Any) -> bytes:
    """Return `pixels` as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, form, **options)
    return buffer.getvalue()


def png(height: int = 24, width: int = 40, channels: int = 3) -> bytes:
    """Return a small PNG."""
    return file(gradient(height, width, channels))


def hole(height: int = 24, width: int = 40) -> bytes:
    """Return a mask for a small PNG: a box of four by eight pixels is missing."""
    missing = np.zeros((height, width, 1), np.uint8)
    missing[8:12, 10:18] = 255
    return file(missing)


def opened(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
