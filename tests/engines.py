"""Fake models and engines for tests, named after what they do. None of them needs TensorFlow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engine.loader import Model
from app.engine.protocol import INTERACTIVE, Arrays, InferenceRequest, RequestContext
from app.errors import ModelUnavailable, UnknownModel
from models.manifest import Manifest


class Identity:
    """A model that gives its inputs back."""

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        return dict(inputs)


class Slow:
    """A model that gives its inputs back once `gate` is open; `entered` is set when it was called."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        self.entered.set()
        assert self.gate.wait(30)
        return dict(inputs)


class Costly:
    """A model that gives its inputs back after `call` seconds, `tile` more for each tile and `pixel` for each pixel."""

    def __init__(self, call: float = 0.0, tile: float = 0.0, pixel: float = 0.0) -> None:
        self.call, self.tile, self.pixel = call, tile, pixel

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        tiles, height, width = inputs["image"].shape[:3]
        time.sleep(self.call + tiles * (self.tile + height * width * self.pixel))
        return dict(inputs)


class Failing:
    """A model that fails for every batch in which an `image` has a value of at least `limit`."""

    def __init__(self, limit: float = -np.inf, error: Exception | None = None) -> None:
        self.limit = limit
        self.error = error or ModelUnavailable("The model failed.")

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        if (inputs["image"] >= self.limit).any():
            raise self.error
        return dict(inputs)


class Recording:
    """A model that gives its inputs back and keeps (signature, batch size, first value of each image) of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, list[float]]] = []
        self.threads: set[str] = set()

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        image = inputs["image"]
        self.threads.add(threading.current_thread().name)
        self.calls.append((signature, len(image), [float(one.flat[0]) for one in image]))
        return dict(inputs)


class Chain:
    """A model that runs `models` one after the other, each on what the one before gave."""

    def __init__(self, *models: Model) -> None:
        self.models = models

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        for model in self.models:
            inputs = model.run(signature, inputs)
        return inputs


class Painter:
    """A model whose style is a mean color: it gives the picture's mean that of the style; presets are red and green.

    As `optimize`, it goes a hundredth of the way in each step.
    """

    PRESETS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        if signature == "preset":
            return {"vector": self.PRESETS[inputs["index"][:, 0].astype(int)]}
        if signature in ("encode", "look"):
            return {"vector" if signature == "encode" else "grams": inputs["style"].mean(axis=(1, 2))}
        image = inputs["image"]
        if signature == "statistics":
            return {"moments": image.mean(axis=(1, 2))[:, None]}
        if signature == "content":
            return {"content": image}
        if signature == "paint":
            return {"image": image + (inputs["vector"] - inputs["moments"][:, 0])[:, None, None]}
        count = inputs["turn"][:, 0, None, None, None]
        away = inputs["grams"][:, None, None] - image.mean(axis=(1, 2), keepdims=True)
        state = {name: inputs[name] + count for name in ("mean", "square")}
        return {"image": image + away * count / 100, **state, "losses": np.zeros((len(image), 2), np.float32)}


class Loader:
    """Loads the fake of a model's name; `broken` {name: what is wrong with its graph}. A model takes 100 bytes."""

    def __init__(self, fakes: Mapping[str, Model] | None = None, broken: Mapping[str, str] | None = None) -> None:
        self.fakes = dict(fakes or {})
        self.broken = dict(broken or {})
        self.devices = ["CPU:0"]
        self.loads: list[str] = []
        self.unloads: list[Model] = []

    def problems(self, folder: Path, manifest: Manifest) -> list[str]:
        return [self.broken[manifest.name]] if manifest.name in self.broken else []

    def size(self, folder: Path) -> int:
        return 100

    def unload(self, model: Model) -> None:
        self.unloads.append(model)

    def load(self, folder: Path, manifest: Manifest, device: str) -> Model:
        self.loads.append(manifest.id)
        if manifest.name not in self.fakes:
            raise ModelUnavailable("It cannot be loaded.")
        return self.fakes[manifest.name]


Function = Callable[[InferenceRequest], Arrays]


class FunctionEngine:
    """An engine of given models that runs `function` for every request, on the event loop.

    `most` is how many requests were running at once; none returns before there were `together`.
    """

    def __init__(self, function: Function, *manifests: Manifest) -> None:
        self.function = function
        self.manifests = manifests
        self.requests: list[InferenceRequest] = []
        self.accelerated = False
        self.tile_mebibytes = 0
        self.now = self.most = 0
        self.together = 1

    def find(self, task: str, name: str | None = None) -> Manifest:
        for manifest in self.manifests:
            if manifest.task == task and name in (None, manifest.name):
                return manifest
        raise UnknownModel(f"There is no model {name!r} for {task}.", field="model", value=name)

    async def run(self, request: InferenceRequest) -> Arrays:
        self.requests.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            while self.most < self.together:
                await asyncio.sleep(0.001)
            return self.function(request)
        finally:
            self.now -= 1


def identity(request: InferenceRequest) -> Arrays:
    """Give the picture back."""
    return {"image": request.inputs["image"]}


def shift(pixels: int) -> Function:
    """Return what moves the picture to the right, zeros from outside: it needs a halo of `pixels`."""
    return lambda request: {
        "image": np.pad(request.inputs["image"], [(0, 0), (0, 0), (pixels, 0), (0, 0)])[:, :, :-pixels]
    }


def enlarge(scale: int) -> Function:
    """Return what repeats every pixel `scale` times in both directions."""
    return lambda request: {"image": request.inputs["image"].repeat(scale, axis=1).repeat(scale, axis=2)}


def request(
    value: float = 0.5,
    *,
    client: str = "anonymous",
    request_id: str | None = None,
    deadline: float = float("inf"),
    due: float = float("inf"),
    model: str = "denoise/identity@1",
    signature: str = "denoise",
    size: int = 8,
    weight: float = INTERACTIVE,
) -> InferenceRequest:
    """Return a request whose picture is filled with `value`; by default each has a `request_id` of its own."""
    image: NDArray[np.float32] = np.full((1, size, size, 3), value, np.float32)
    context = RequestContext(request_id or f"{client} {value}", client, deadline, due, weight=weight)
    return InferenceRequest(model, signature, {"image": image}, context, size * size)
