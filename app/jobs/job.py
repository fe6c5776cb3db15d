"""`NewJob` and `Job`: a job before and after it is added to the queue."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
JOB_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to add.

    `request` holds the options as JSON types. `deadline` is in seconds since 1970; a job still queued then fails.
    """

    client: str
    task: str
    request: dict[str, Any]
    digest: str
    key: str | None = None
    deadline: float | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the job table. Times are seconds since 1970.

    `place` is the position in the queue, from 1, or None if the job is not queued. `done` of `steps` steps are
    finished. `result` describes the result's file, `problem` says why there is none. `digest` identifies the request,
    `key` is the client's idempotency key. `lease` is the token of the worker that claimed it, or empty.
    """

    number: int
    id: str
    client: str
    task: str
    request: dict[str, Any]
    state: State
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    deadline: float | None
    key: str | None
    digest: str
    done: int
    steps: int
    attempts: int
    lease: str
    problem: dict[str, Any] | None
    result: dict[str, Any] | None
    place: int | None

    @property
    def is_finished(self) -> bool:
        """Whether the job is neither queued nor running."""
        return self.state not in ("queued", "running")
