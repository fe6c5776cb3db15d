"""What the tasks see of the engine: models to ask for by name, and tickets to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom work is done. `deadline` is on the clock of `time.monotonic`, in seconds.

    The engine adds to `spent` what the caller's tickets used, in seconds: `model`, their share of the device's time.
    A `probe` asks whether the device works, and is not refused because others wait.
    """

    request_id: str
    client: str = "anonymous"
    deadline: float = float("inf")
    probe: bool = False
    spent: dict[str, float] = field(default_factory=dict, compare=False, repr=False)


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
    """Runs tickets. Safe to call from the event loop; never blocks it."""

    def find(self, task: str, name: str | None = None) -> Manifest:
        """Return the manifest of model `name` (`name` or `name@version`), or of the task's default when None.

        Raises UnknownModel, which names the nearest, or ModelUnavailable when it is known and cannot be loaded.
        """

    async def run(self, ticket: Ticket) -> Arrays:
        """Return the outputs of `ticket` by name, float32, batch axis of 1.

        Cancelling the awaiting task takes a waiting ticket off the queue. Raises DeadlineExceeded, Overloaded,
        ModelUnavailable, ShuttingDown.
        """
