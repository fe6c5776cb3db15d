"""The form in which requests travel to a replica and results return.

Clocks of two machines differ, so a deadline travels as the seconds until it. Errors travel as values: Ray would wrap a
raised one in its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.engine.protocol import Arrays, Counters, InferenceRequest, RequestContext
from app.errors import ServiceError


@dataclass(frozen=True, slots=True)
class WireRequest:
    """An InferenceRequest on its way. `deadline_s` and `due_s` are the seconds until its deadline and until it is due;
    `request_id` is unique among all senders; what is `exact` is computed in float32."""

    model: str
    signature: str
    inputs: Arrays = field(repr=False)
    pixels: int
    request_id: str
    client: str
    deadline_s: float
    due_s: float
    weight: float
    exact: bool

    @classmethod
    def of(cls, request: InferenceRequest, sender: str, now: float) -> WireRequest:
        """Return `request` as `sender` sends it at `now` on its clock."""
        context = request.context
        return cls(
            model=request.model,
            signature=request.signature,
            inputs=request.inputs,
            pixels=request.pixels,
            request_id=f"{sender}/{context.request_id}",
            client=context.client,
            deadline_s=context.deadline - now,
            due_s=context.due - now,
            weight=context.weight,
            exact=context.exact,
        )

    def request(self, now: float) -> InferenceRequest:
        """Return the request, with its deadline on the clock of the replica that received it at `now`."""
        deadline, due = now + self.deadline_s, now + self.due_s
        context = RequestContext(self.request_id, self.client, deadline, due, weight=self.weight, exact=self.exact)
        return InferenceRequest(self.model, self.signature, self.inputs, context, self.pixels)


@dataclass(frozen=True, slots=True)
class WireResult:
    """The outcome of a request, the device seconds and the precision that it used, and what the replica counted since
    its last result."""

    outcome: Arrays | ServiceError = field(repr=False)
    device_seconds: float
    precision: str
    counters: Counters
