"""The run whose code is executing: the one that every operation is asked of."""

from __future__ import annotations

from typing import cast

from stepwell.definitions.collector import end_clean_up
from stepwell.definitions.durable import current_host
from stepwell.errors import StepwellError
from stepwell.replay.execution import Execution


def calling_run(what: str) -> Execution:
    """Return the run that the current code belongs to; raise `StepwellError` outside of workflow code."""
    run = calling_run_or_none()
    if run is None:
        end_clean_up()
        raise StepwellError(
            f"{what} was called outside of a workflow. Inside a step, or in code that no workflow runs, use the "
            "engine's own methods (engine.send, engine.start, …) instead; publish() and stream() work in steps as well"
        )
    return run


def calling_run_or_none() -> Execution | None:
    """Return the run that the current code belongs to, None outside of workflow code."""
    return cast("Execution | None", current_host())
