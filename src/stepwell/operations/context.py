"""What code can ask about the run that executes it, and the log for it: `current`, `get_logger`."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from stepwell.definitions.collector import end_clean_up, is_clean_up
from stepwell.definitions.step_info import Current, RunContext, current_here
from stepwell.errors import StepwellError
from stepwell.operations.calling_run import calling_run_or_none


def current() -> Current:
    """Return what is executing: a `RunContext` in workflow code, a `StepInfo` in a step.

    It also works in workflows and steps that were called outside of any run. Raises `StepwellError` anywhere else.
    """
    run = calling_run_or_none()
    if run is not None:
        return RunContext(run.run_id, run.definition.name, run.replaying)
    end_clean_up()
    found = current_here()
    if found is None:
        raise StepwellError("current() was called outside of workflows and steps")
    return found


class ReplaySilentLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger for workflow code: says everything once, and nothing on replay or while its run leaves memory."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name that logging gave it
        """Return False during replay, and while code is closed because its run leaves memory or has ended."""
        run = calling_run_or_none()
        if run is None:
            if is_clean_up():
                return False
        elif run.replaying or run.stopped:
            return False
        return self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run's id to the record, as ``run_id``."""
        run = calling_run_or_none()
        kwargs["extra"] = {"run_id": None if run is None else run.run_id, **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_logger(name: str) -> ReplaySilentLogger:
    """Return a logger that is silent on replay and while a run leaves memory, and adds ``run_id`` to each record.

    It works outside of runs as well.
    """
    return ReplaySilentLogger(logging.getLogger(name), {})
