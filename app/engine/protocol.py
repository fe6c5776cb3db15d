"""The interface of the engine: `Engine` is what tasks use of it, `ModelServer` what the service uses as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.latency_model import LatencyModel
from models.manifest import Manifest

Arrays = dict[str, NDArray[np.float32]]


INTERACTIVE, BACKGROUND = 4.0, 1.0
"""Weights of a request whose client waits for the response, and of a job: their shares of the device."""


@dataclass(slots=True)
class Progress:
    """How many steps of a request are done. A step is a tile, a hole or a call of a model, as its task defines."""

    done: int = 0
    all: int = 0

    def expect(self, steps: int) -> None:
        """Add `steps` to those to be done."""
        self.all += steps

    def step(self) -> None:
        """Count one step as done."""
        self.done += 1


_BY_EXACTNESS = ("float32", "float16", "bfloat16", "int8")


@dataclass(slots=True)
class Usage:
    """What a request has used: its share of the device's time, in seconds, and the precision of each signature."""

    device_seconds: float = 0.0
    precisions: dict[str, str] = field(default_factory=dict)

    def add_precision(self, signature: str, precision: str) -> None:
        """Add the precision that a tile is computed in. Of several, the least exact one counts."""
        self.precisions[signature] = max(self.precision(signature), precision, key=_BY_EXACTNESS.index)

    def precision(self, signature: str) -> str:
        """Return the precision that `signature` was computed in."""
        return self.precisions.get(signature, "float32")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who asks, and until when. `deadline` and `due` are on the clock of `time.monotonic`, in seconds; of one client's
    requests the one that is `due` first has the device first, the earliest deadline where nothing is due.

    The engine adds to `usage`, and tasks count their steps in `progress`; copies by `dataclasses.replace` share both.
    A `probe` asks whether the device works, and is not refused when the queue is full. What is `exact`, such as a
    picture of 16 bits, is computed in float32.
    """

    request_id: str
    client: str = "anonymous"
    deadline: float = float("inf")
    due: float = float("inf")
    probe: bool = False
    exact: bool = False
    weight: float = INTERACTIVE
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)
    progress: Progress = field(default_factory=Progress, compare=False, repr=False)

    @property
    def background(self) -> bool:
        """Whether no client waits for the response: it is a job's."""
        return self.weight < INTERACTIVE


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One tile to run through a model: the unit that the scheduler orders, batches, counts and cancels.

    `inputs` are float32 arrays with a batch axis of 1, as the signature's manifest entry names them.
    """

    model: str
    signature: str
    inputs: Arrays = field(repr=False)
    context: RequestContext
    pixels: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model. `manifest` is None where it cannot be read; `reason` says why it is unavailable;
    `latest` is the version that the name alone means."""

    id: str
    folder: Path
    manifest: Manifest | None
    state: Literal["unloaded", "loaded", "unavailable"]
    reason: str = ""
    latest: bool = False


@dataclass(slots=True)
class Counters:
    """What happened since the start, for metrics. Counters only grow, and those of two devices add up.

    `busy_seconds` are those in which a device worked, `pixels` were done, `retries` are requests that were sent
    to another replica because theirs died.
    """

    requests: int = 0
    failures: int = 0
    batches: int = 0
    pixels: int = 0
    busy_seconds: float = 0.0
    retries: int = 0
    batch_sizes: Counter[int] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(mine + its for mine, its in zip(self._values(), other._values(), strict=True)))

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(*(now - then for now, then in zip(self._values(), earlier._values(), strict=True)))

    def _values(self) -> list[Any]:
        return [getattr(self, one.name) for one in fields(self)]


class Engine(Protocol):
    """Runs models. Safe to call from the event loop; never blocks it. `accelerated` where the device is no CPU.

    `tile_mebibytes` is the memory that a tile may take that is larger than its model asks for.
    """

    accelerated: bool
    tile_mebibytes: int

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None.

        Raises UnknownModel, which names the nearest, or ModelUnavailable when it is known and cannot be loaded.
        """

    async def run(self, request: InferenceRequest) -> Arrays:
        """Return the outputs of `request` by name, float32, batch axis of 1.

        Cancelling the awaiting task takes a waiting request off the queue. Raises DeadlineExceeded, Overloaded,
        ModelUnavailable, ShuttingDown.
        """


class DeviceStats(Protocol):
    """What waits for a device, and what it did since the start."""

    @property
    def depth(self) -> int:
        """Requests that wait."""

    @property
    def megapixels(self) -> float:
        """Megapixels that wait."""

    @property
    def oldest_seconds(self) -> float:
        """Seconds since the oldest request that waits or runs came; 0 where there is none."""

    @property
    def counters(self) -> Counters:
        """What happened."""


class ModelServer(Engine, Protocol):
    """What the service needs of an engine beyond what tasks need. `latency` has the measured times."""

    latency: LatencyModel

    @property
    def device(self) -> str:
        """What models run on, in words."""

    @property
    def worker_count(self) -> int:
        """How many devices work at once; 0 while none can."""

    @property
    def devices(self) -> Mapping[str, DeviceStats]:
        """What waits and what was done, by device."""

    @property
    def counters(self) -> Counters:
        """What happened on all devices since the start, as far as it is known here."""

    def statuses(self) -> list[ModelStatus]:
        """Return all versions of all models, by task, name and version."""

    def defaults(self) -> list[Manifest]:
        """Return the default model of each task that has one that can be served."""

    def precisions(self, manifest: Manifest) -> Mapping[str, str]:
        """Return {signature: the precision that it is computed in here}."""

    async def refresh(self) -> None:
        """Load what changed in the model repository."""

    async def warm(self, manifest: Manifest, *, keep: bool = False) -> None:
        """Load a model and run each signature once, so that requests find it ready; with `keep` it is unloaded
        last.

        Raises what `run` raises.
        """

    async def close(self, limit: float) -> None:
        """End gracefully: admitted requests get `limit` seconds, then ShuttingDown."""
