"""Long walks of a state machine: 1,000 steps, 10,000 with RESTORE_FUZZ=5000, the same each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS = 10_000 if int(os.environ.get("RESTORE_FUZZ", "300")) >= 5000 else 1000


def walk(machine: type[RuleBasedStateMachine]) -> None:
    """Run `machine` for about twice STEPS steps at most; it counts them itself."""
    chosen = settings(
        max_examples=STEPS // 25,
        stateful_step_count=50,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
