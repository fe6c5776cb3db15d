"""What the tasks see of the engine: models to ask for by name, and tickets to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest

Arrays = dict[str, NDArray[np.float32]]


INTERACTIVE, BACKGROUND = 4.0, 1.0
"""Weights of a caller who waits for the answer, and of a job: shares of the device where both want it."""


@dataclass(slots=True)
class Progress:
    """How far a caller's work is, in steps of the task's own: tiles, holes, calls of a model."""

    done: int = 0
    all: int = 0

    def expect(self, steps: int) -> None:
        """Say that so many steps more are to be done."""
        self.all += steps

    def step(self) -> None:
        """Count one step as done."""
        self.done += 1


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom work is done. `deadline` is on the clock of `time.monotonic`, in seconds.

    The engine adds to `spent` what the caller's tickets used, in seconds: `model`, their share of the device's time.
    A `probe` asks whether the device works, and is not refused because others wait. Tasks count their steps in
    `progress`.
    """

    request_id: str
    client: str = "anonymous"
    deadline: float = float("inf")
    probe: bool = False
    weight: float = INTERACTIVE
    spent: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    progress: Progress = field(default_factory=Progress, compare=False, repr=False)

    @property
    def background(self) -> bool:
        """Whether nobody waits for the answer: it is a job's."""
        return self.weight < INTERACTIVE


@dataclass(frozen=True, slots=True)
class Ticket:
    """One tile's worth of work: the unit that the scheduler orders, batches, counts and cancels.

    `inputs` are float32 arrays with a batch axis of 1, as the signature's manifest entry names them.
    """

    model: str
    signature: str
    inputs: Arrays = field(repr=False)
    caller: Caller
    pixels: int


class Engine(Protocol):
    """Runs tickets. Safe to call from the event loop; never blocks it. `accelerated` where the device is no CPU."""

    accelerated: bool

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None.

        Raises UnknownModel, which names the nearest, or ModelUnavailable when it is known and cannot be loaded.
        """

    async def run(self, ticket: Ticket) -> Arrays:
        """Return the outputs of `ticket` by name, float32, batch axis of 1.

        Cancelling the awaiting task takes a waiting ticket off the queue. Raises DeadlineExceeded, Overloaded,
        ModelUnavailable, ShuttingDown.
        """
